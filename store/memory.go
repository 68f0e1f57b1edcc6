package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/actpass/sidecar/gate"
)

// FailMode is a way in which a store fails.
type FailMode int

// The ways. The two nasty ones are those that a caller must be built for.
const (
	Works           FailMode = iota
	Fails                    // an error, and nothing was done
	FailsButPersist          // an error, and yet it was done
	LostButDone              // no error, and yet nothing was done: a disk that lies
)

// ErrInjected is in the chain of every error that Fail caused.
var ErrInjected = errors.New("injected store failure")

// Memory is a gate.Store in memory, for tests. It polices its caller: misuse
// (ErrMisuse) panics unless OnMisuse says otherwise, because a test that goes on
// after it tests nothing.
type Memory struct {
	// OnMisuse is told of every misuse, whose error the caller then gets; panics
	// when nil. Set it before first use.
	OnMisuse func(error)

	unsettled atomic.Int32 // answers of ReserveSoon that nobody settled

	mu     sync.Mutex
	fail   map[string]FailMode
	closed bool
	s      memoryState
}

type memoryState struct {
	keys        map[string]gate.Key // by id
	hashes      map[[32]byte]string // to key id
	approvals   map[string]gate.Approval
	transitions []gate.Transition // by id
	lastMove    int64             // id of the newest transition that ever was
	recorded    map[int64]bool
	uses        []memoryUse
	seen        map[[2]string]int64          // by tenant and limit key, the last reservation
	passports   map[[2]string]memoryPassport // by tenant and jti
	issued      map[[2]string]gate.Passport  // by tenant and jti
	answers     map[[2]string]memoryAnswer   // by tenant and approval
	grants      map[string]gate.Grant        // by id
	modes       map[string]gate.ModeOverride // by id
	grantUses   map[memoryGrantUse]int64     // the amounts
}

var _ gate.Store = (*Memory)(nil)

// NewMemory is an empty store.
func NewMemory() *Memory {
	return &Memory{fail: map[string]FailMode{}, s: memoryState{
		keys: map[string]gate.Key{}, hashes: map[[32]byte]string{},
		approvals: map[string]gate.Approval{}, recorded: map[int64]bool{}, seen: map[[2]string]int64{},
		passports: map[[2]string]memoryPassport{}, issued: map[[2]string]gate.Passport{}, answers: map[[2]string]memoryAnswer{},
		modes:  map[string]gate.ModeOverride{},
		grants: map[string]gate.Grant{}, grantUses: map[memoryGrantUse]int64{},
	}}
}

// Fail makes every later call of a method (its name in gate.Store; "*" for all
// that have no mode of their own) go as mode says. Works ends it.
func (m *Memory) Fail(method string, mode FailMode) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail[method] = mode
}

// clone copies deeply enough: what is inside a stored value is never changed in
// place.
func (s memoryState) clone() memoryState {
	return memoryState{
		keys: maps.Clone(s.keys), hashes: maps.Clone(s.hashes), approvals: maps.Clone(s.approvals),
		transitions: slices.Clone(s.transitions), lastMove: s.lastMove, recorded: maps.Clone(s.recorded), uses: slices.Clone(s.uses), seen: maps.Clone(s.seen),
		passports: maps.Clone(s.passports), issued: maps.Clone(s.issued), answers: maps.Clone(s.answers),
		modes:  maps.Clone(s.modes),
		grants: maps.Clone(s.grants), grantUses: maps.Clone(s.grantUses),
	}
}

// do runs one method's step on the state, all or nothing.
func (m *Memory) do(ctx context.Context, method string, step func(*memoryState) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	mode, own := m.fail[method]
	if !own {
		mode = m.fail["*"]
	}
	if mode == Fails {
		return fmt.Errorf("%s: %w", method, ErrInjected)
	}
	next := m.s
	if mode == LostButDone {
		next = m.s.clone()
	}
	if err := step(&next); err != nil {
		if errors.Is(err, ErrMisuse) {
			m.misused(err)
		}
		return err
	}
	if mode != LostButDone {
		m.s = next
	}
	if mode == FailsButPersist {
		return fmt.Errorf("%s: %w", method, ErrInjected)
	}
	return nil
}

// answer takes the result away from a caller that got an error.
func answer[T any](v T, err error) (T, error) {
	if err != nil {
		var none T
		return none, err
	}
	return v, nil
}

func (m *Memory) misused(err error) {
	if m.OnMisuse == nil {
		panic(err)
	}
	m.OnMisuse(err)
}

// CreateKey implements gate.Store.
func (m *Memory) CreateKey(ctx context.Context, k gate.Key, hash [32]byte) error {
	return m.do(ctx, "CreateKey", func(s *memoryState) error {
		if err := checkKey(k); err != nil {
			return err
		}
		if _, taken := s.hashes[hash]; taken {
			return fmt.Errorf("a key with this secret exists: %w", gate.ErrIllegalState)
		}
		if _, taken := s.keys[k.ID]; taken {
			return fmt.Errorf("key %s exists: %w", k.ID, gate.ErrIllegalState)
		}
		k.Groups = slices.Clone(k.Groups)
		k.CreatedAt, k.ExpiresAt = stored(k.CreatedAt), stored(k.ExpiresAt)
		k.LastUsedAt, k.RevokedAt = stored(k.LastUsedAt), stored(k.RevokedAt)
		s.keys[k.ID], s.hashes[hash] = k, k.ID
		return nil
	})
}

// KeyByHash implements gate.Store.
func (m *Memory) KeyByHash(ctx context.Context, hash [32]byte) (k gate.Key, err error) {
	err = m.do(ctx, "KeyByHash", func(s *memoryState) error {
		id, ok := s.hashes[hash]
		if !ok {
			return fmt.Errorf("find a key: %w", gate.ErrNotFound)
		}
		k = s.keys[id]
		return nil
	})
	return answer(k, err)
}

// newestFirst lists what keep accepts, one page from cursor on.
func newestFirst[K comparable, T any](all map[K]T, at func(T) position, keep func(T) bool, cursor string, limit int) ([]T, string, error) {
	from, err := parsePosition(cursor)
	if err != nil {
		return nil, "", err
	}
	var list []T
	for _, v := range all {
		if p := at(v); from.after(p.at, p.id) && keep(v) {
			list = append(list, v)
		}
	}
	slices.SortFunc(list, func(a, b T) int {
		x, y := at(a), at(b)
		return cmp.Or(cmp.Compare(y.at, x.at), cmp.Compare(y.id, x.id))
	})
	list, next := page(list, pageSize(limit), at)
	return list, next, nil
}

// Keys implements gate.Store.
func (m *Memory) Keys(ctx context.Context, tenant, cursor string, limit int) (keys []gate.Key, next string, err error) {
	err = m.do(ctx, "Keys", func(s *memoryState) (err error) {
		keys, next, err = newestFirst(s.keys, keyPosition, func(k gate.Key) bool { return k.TenantID == tenant }, cursor, limit)
		return err
	})
	return keys, next, err
}

// RevokeKey implements gate.Store.
func (m *Memory) RevokeKey(ctx context.Context, tenant, id string, at time.Time) (got gate.Key, err error) {
	err = m.do(ctx, "RevokeKey", func(s *memoryState) error {
		if at.IsZero() {
			return misuse("revoking key %s without a time", id)
		}
		k, ok := s.keys[id]
		if !ok || k.TenantID != tenant {
			return notFound("key", id)
		}
		if k.RevokedAt.IsZero() {
			k.RevokedAt = stored(at)
			s.keys[id] = k
		}
		got = k
		return nil
	})
	return answer(got, err)
}

// TouchKey implements gate.Store.
func (m *Memory) TouchKey(ctx context.Context, id string, at time.Time) error {
	return m.do(ctx, "TouchKey", func(s *memoryState) error {
		k, ok := s.keys[id]
		if !ok {
			return notFound("key", id)
		}
		if at = stored(at.Truncate(time.Minute)); at.After(k.LastUsedAt) {
			k.LastUsedAt = at
			s.keys[id] = k
		}
		return nil
	})
}

// Ping implements gate.Store.
func (m *Memory) Ping(ctx context.Context) error {
	return m.do(ctx, "Ping", func(*memoryState) error { return nil })
}

// Close implements gate.Store.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	if n := m.unsettled.Load(); n != 0 {
		m.misused(misuse("%d shares of limits were never settled", n))
	}
	return nil
}
