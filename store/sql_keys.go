package store

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/actpass/sidecar/gate"
)

const keyColumns = `id, tenant_id, name, role, agent_id, groups, mode, prefix, created_at, expires_at, last_used_at, revoked_at, ceiling`

func scanKey(row scanner) (gate.Key, error) {
	var k gate.Key
	var groups, ceiling []byte
	var created, expires, used, revoked int64
	err := row.Scan(&k.ID, &k.TenantID, &k.Name, &k.Role, &k.AgentID, &groups, &k.Mode, &k.Prefix,
		&created, &expires, &used, &revoked, &ceiling)
	if err != nil {
		return gate.Key{}, err
	}
	if err := json.Unmarshal(groups, &k.Groups); err != nil {
		return gate.Key{}, fmt.Errorf("groups of key %s: %w", k.ID, err)
	}
	if k.Ceiling, err = decodeCeiling(ceiling); err != nil {
		return gate.Key{}, fmt.Errorf("ceiling of key %s: %w", k.ID, err)
	}
	k.CreatedAt, k.ExpiresAt = fromMicros(created), fromMicros(expires)
	k.LastUsedAt, k.RevokedAt = fromMicros(used), fromMicros(revoked)
	return k, nil
}

func encodeCeiling(c *gate.Ceiling) (string, error) {
	if c == nil {
		return "", nil
	}
	b, err := json.Marshal(c)
	return string(b), err
}

// decodeCeiling keeps bounds exact, as they are for arguments.
func decodeCeiling(raw []byte) (*gate.Ceiling, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	d.DisallowUnknownFields() // a bound that this program does not know is not ignored
	var c gate.Ceiling
	if err := d.Decode(&c); err != nil {
		return nil, err
	}
	for k, v := range c.ResourceConstraints {
		c.ResourceConstraints[k] = exact(v)
	}
	return &c, nil
}

// CreateKey implements gate.Store.
func (s *tables) CreateKey(ctx context.Context, k gate.Key, hash [32]byte) error {
	if err := checkKey(k); err != nil {
		return err
	}
	groups, err := json.Marshal(k.Groups)
	if err != nil {
		return fmt.Errorf("store key %s: %w", k.ID, err)
	}
	ceiling, err := encodeCeiling(k.Ceiling)
	if err != nil {
		return fmt.Errorf("store key %s: %w", k.ID, err)
	}
	err = s.transact(ctx, []lock{exclusive("keys")}, func(b *batch) error {
		var taken int
		err := b.row(`SELECT count(*) FROM keys WHERE id = ? OR hash = ?`, []any{k.ID, hash[:]}, &taken)
		if err != nil {
			return err
		}
		if taken > 0 {
			return fmt.Errorf("a key with this id or secret exists: %w", gate.ErrIllegalState)
		}
		return b.run(`INSERT INTO keys (`+keyColumns+`, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			k.ID, k.TenantID, k.Name, k.Role, k.AgentID, string(groups), k.Mode, k.Prefix,
			micros(k.CreatedAt), micros(k.ExpiresAt), micros(k.LastUsedAt), micros(k.RevokedAt), ceiling, hash[:])
	})
	if err != nil {
		return fmt.Errorf("store key %s: %w", k.ID, err)
	}
	return nil
}

// KeyByHash implements gate.Store.
func (s *tables) KeyByHash(ctx context.Context, hash [32]byte) (gate.Key, error) {
	k, err := scanKey(s.row(ctx, `SELECT `+keyColumns+` FROM keys WHERE hash = ?`, hash[:]))
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return gate.Key{}, fmt.Errorf("find a key: %w", gate.ErrNotFound)
	case err != nil:
		return gate.Key{}, fmt.Errorf("find a key: %w", err)
	}
	return k, nil
}

// Keys implements gate.Store.
func (s *tables) Keys(ctx context.Context, tenant, cursor string, limit int) ([]gate.Key, string, error) {
	from, err := parsePosition(cursor)
	if err != nil {
		return nil, "", err
	}
	limit = pageSize(limit)
	var keys []gate.Key
	err = s.each(ctx, `SELECT `+keyColumns+` FROM keys
		WHERE tenant_id = ? AND (created_at, id) < (?, ?) ORDER BY created_at DESC, id DESC LIMIT ?`, []any{tenant, from.at, from.id, limit + 1}, func(row scanner) error {
		k, err := scanKey(row)
		keys = append(keys, k)
		return err
	})
	if err != nil {
		return nil, "", fmt.Errorf("list keys: %w", err)
	}
	keys, next := page(keys, limit, keyPosition)
	return keys, next, nil
}

func keyPosition(k gate.Key) position { return position{at: micros(k.CreatedAt), id: k.ID} }

// page cuts a list that was asked for one row more than limit, and says where
// the next one begins.
func page[T any](list []T, limit int, at func(T) position) ([]T, string) {
	if len(list) <= limit {
		return list, ""
	}
	list = list[:limit]
	return list, at(list[limit-1]).cursor()
}

// RevokeKey implements gate.Store.
func (s *tables) RevokeKey(ctx context.Context, tenant, id string, at time.Time) (gate.Key, error) {
	if at.IsZero() {
		return gate.Key{}, misuse("revoking key %s without a time", id)
	}
	var k gate.Key
	err := s.transact(ctx, nil, func(b *batch) error {
		err := b.run(`UPDATE keys SET revoked_at = ? WHERE tenant_id = ? AND id = ? AND revoked_at = 0`, micros(at), tenant, id)
		if err != nil {
			return err
		}
		k, err = scanKey(b.one(`SELECT `+keyColumns+` FROM keys WHERE tenant_id = ? AND id = ?`, tenant, id))
		if errors.Is(err, sql.ErrNoRows) {
			return gate.ErrNotFound
		}
		return err
	})
	if err != nil {
		return gate.Key{}, fmt.Errorf("revoke key %s: %w", id, err)
	}
	return k, nil
}

// TouchKey implements gate.Store. It writes once a minute and key.
func (s *tables) TouchKey(ctx context.Context, id string, at time.Time) error {
	at = at.Truncate(time.Minute)
	if last, ok := s.touched.Load(id); ok && at.Unix() <= last.(int64) {
		return nil
	}
	err := s.transact(ctx, nil, func(b *batch) error {
		res, err := b.exec(`UPDATE keys SET last_used_at = CASE WHEN last_used_at < ?1 THEN ?1 ELSE last_used_at END WHERE id = ?2`, micros(at), id)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, gate.ErrNotFound)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("note the use of key %s: %w", id, err)
	}
	s.touched.Store(id, at.Unix())
	return nil
}
