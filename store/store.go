// Package store keeps what needs a transaction (keys, approvals, limits), and
// the index of the evidence log that queries are answered from.
//
// Two things live here that must not be confused. [SQLite] is truth: an
// approval's single use and a limit's sum exist nowhere else, so every write is
// on disk before it is acknowledged. [Index] is a follower of the ledger: it may
// lag, it may be deleted, and it rebuilds itself from the log.
//
// [Memory] is a gate.Store for tests. It keeps the same promises as SQLite
// (package storetest holds both to them), stops a caller that breaks the rules,
// and can fail in the two nasty ways: failed but persisted, and reported done
// but lost.
package store

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/actpass/sidecar/gate"
)

// ErrMisuse is in the chain of an error that no correct caller can cause,
// whatever the timing: an empty id, a negative amount, a transition that does
// not exist.
var ErrMisuse = errors.New("the store was used wrongly")

func misuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMisuse, fmt.Sprintf(format, args...))
}

// A list without a limit, and the longest that one call gives.
const (
	defaultLimit = 50
	maxLimit     = 1000
	expirePage   = 64 // approvals that expire in one transaction
)

func pageSize(limit int) int {
	switch {
	case limit <= 0:
		return defaultLimit
	case limit > maxLimit:
		return maxLimit
	}
	return limit
}

// micros is how times are stored: microseconds since 1970 UTC; 0 is the zero
// time, "never".
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

// stored is t as it comes back from a store.
func stored(t time.Time) time.Time { return fromMicros(micros(t)) }

// position is a place in a list that is sorted by time and then id, both
// falling.
type position struct {
	at int64 // microseconds
	id string
}

// listTop is before everything.
var listTop = position{at: math.MaxInt64}

func (p position) cursor() string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(p.at, 10) + " " + p.id))
}

// after says whether a row comes after p in the list.
func (p position) after(at int64, id string) bool {
	return at < p.at || at == p.at && id < p.id
}

func parsePosition(cursor string) (position, error) {
	if cursor == "" {
		return listTop, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil {
		return position{}, badCursor()
	}
	at, id, ok := strings.Cut(string(raw), " ")
	if !ok {
		return position{}, badCursor()
	}
	us, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		return position{}, badCursor()
	}
	return position{at: us, id: id}, nil
}

func badCursor() error {
	return &gate.FieldError{Field: "cursor", Message: "is not one that this list gave; start again without it"}
}

// decodeArgs reads arguments as policy saw them: whole numbers come back as
// int64, others as float64, and what fits neither stays as it was written.
func decodeArgs(raw []byte) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var args map[string]any
	if err := d.Decode(&args); err != nil {
		return nil, err
	}
	for k, v := range args {
		args[k] = exact(v)
	}
	return args, nil
}

func exact(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		if f, err := v.Float64(); err == nil {
			return f
		}
		return v
	case map[string]any:
		for k, e := range v {
			v[k] = exact(e)
		}
	case []any:
		for i, e := range v {
			v[i] = exact(e)
		}
	}
	return v
}

// checkKey refuses a key that could not be found, listed or judged later.
func checkKey(k gate.Key) error {
	switch {
	case k.ID == "" || k.TenantID == "":
		return misuse("a key needs an id and a tenant")
	case k.Role != gate.RoleGateway && k.Role != gate.RoleApprover && k.Role != gate.RoleAdmin:
		return misuse("key %s has the role %q", k.ID, k.Role)
	case k.CreatedAt.IsZero():
		return misuse("key %s has no time of creation", k.ID)
	}
	return nil
}

// checkOpen refuses an approval that nobody could decide or that would never end.
func checkOpen(a gate.Approval) error {
	switch {
	case a.ID == "" || a.TenantID == "" || a.Fingerprint == "":
		return misuse("an approval needs an id, a tenant and a fingerprint")
	case a.Required < 1:
		return misuse("approval %s requires %d keys", a.ID, a.Required)
	case a.CreatedAt.IsZero() || a.ExpiresAt.IsZero():
		return misuse("approval %s needs the times of its creation and expiry", a.ID)
	case a.UseWithin < 0:
		return misuse("approval %s is to be used within %s", a.ID, a.UseWithin)
	}
	return nil
}

// checkReservation refuses one that could not be released.
func checkReservation(tenant, eventID string, uses []gate.Use, now time.Time) error {
	if eventID == "" {
		return misuse("a reservation needs an event")
	}
	return checkUses(tenant, uses, now)
}

// checkUses refuses what would widen a limit instead of using it.
func checkUses(tenant string, uses []gate.Use, now time.Time) error {
	if tenant == "" || now.IsZero() {
		return misuse("limits need a tenant and a time")
	}
	windows := make(map[string]gate.Use, len(uses))
	for _, u := range uses {
		k := limitKey(u)
		if w, twice := windows[k]; twice && (w.Window != u.Window || !w.Since.Equal(u.Since)) {
			return misuse("limit %s is used with two windows at once", u.Limit)
		}
		windows[k] = u
		switch {
		case u.Limit == "":
			return misuse("a use without the name of its limit")
		case u.Amount < 0:
			return misuse("limit %s: the amount %d is negative", u.Limit, u.Amount)
		case u.Window < time.Microsecond:
			return misuse("limit %s: the window %s is too short", u.Limit, u.Window)
		case u.Since.After(now) || !u.Since.IsZero() && u.Since.Before(now.Add(-u.Window)):
			return misuse("limit %s: its window of %s cannot begin at %s", u.Limit, u.Window, u.Since)
		}
	}
	return nil
}

func notFound(what, id string) error {
	return fmt.Errorf("%s %s: %w", what, id, gate.ErrNotFound)
}

// strictJSON reads a document in which a member that this program does not know
// is an error.
func strictJSON(raw []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	return d.Decode(v)
}
