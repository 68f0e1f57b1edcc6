package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/actpass/sidecar/gate"
)

func checkMode(o gate.ModeOverride) error {
	switch {
	case o.ID == "" || o.TenantID == "" || o.CreatedAt.IsZero():
		return misuse("a mode override has an id, a tenant and a time")
	case o.Mode == gate.ModeMonitor || !gate.ValidMode(o.Mode):
		return misuse("mode override %s: %q tightens nothing", o.ID, o.Mode)
	case !o.ClearedAt.IsZero() || o.ClearedBy != "":
		return misuse("mode override %s is new, and already cleared", o.ID)
	}
	return nil
}

const modeColumns = `id, tenant_id, tool, agent_id, mode, reason, key_id, key_name, created_at, cleared_at, cleared_by`

func scanMode(row scanner) (o gate.ModeOverride, err error) {
	var created, cleared int64
	err = row.Scan(&o.ID, &o.TenantID, &o.Tool, &o.AgentID, &o.Mode, &o.Reason, &o.KeyID, &o.KeyName, &created, &cleared, &o.ClearedBy)
	o.CreatedAt, o.ClearedAt = fromMicros(created), fromMicros(cleared)
	return o, err
}

// SetMode implements gate.Store.
func (s *tables) SetMode(ctx context.Context, o gate.ModeOverride, maxLive int) error {
	if err := checkMode(o); err != nil {
		return err
	}
	err := s.transact(ctx, []lock{exclusive("modes", o.TenantID)}, func(b *batch) error {
		var taken, live int
		if err := b.row(`SELECT count(*) FROM mode_overrides WHERE id = ?`, []any{o.ID}, &taken); err != nil {
			return err
		}
		if taken > 0 {
			return fmt.Errorf("it exists: %w", gate.ErrIllegalState)
		}
		if err := b.row(`SELECT count(*) FROM mode_overrides WHERE tenant_id = ? AND cleared_at = 0`, []any{o.TenantID}, &live); err != nil {
			return err
		}
		if live >= maxLive {
			return fmt.Errorf("%d mode overrides are in force already: %w", live, gate.ErrTooMany)
		}
		return b.run(`INSERT INTO mode_overrides (`+modeColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, '')`,
			o.ID, o.TenantID, o.Tool, o.AgentID, o.Mode, o.Reason, o.KeyID, o.KeyName, micros(o.CreatedAt))
	})
	if err != nil {
		return fmt.Errorf("store mode override %s: %w", o.ID, err)
	}
	return nil
}

// ClearMode implements gate.Store.
func (s *tables) ClearMode(ctx context.Context, tenant, id, keyID string, at time.Time) (o gate.ModeOverride, err error) {
	if at.IsZero() {
		return o, misuse("clearing mode override %s without a time", id)
	}
	err = s.transact(ctx, []lock{exclusive("modes", tenant)}, func(b *batch) error {
		var err error
		o, err = scanMode(b.one(`SELECT `+modeColumns+` FROM mode_overrides WHERE tenant_id = ? AND id = ?`, tenant, id))
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return notFound("mode override", id)
		case err != nil || !o.ClearedAt.IsZero():
			return err
		}
		o.ClearedAt, o.ClearedBy = fromMicros(micros(at)), keyID
		return b.run(`UPDATE mode_overrides SET cleared_at = ?, cleared_by = ? WHERE id = ?`, micros(at), keyID, id)
	})
	if err != nil {
		return gate.ModeOverride{}, fmt.Errorf("clear mode override %s: %w", id, err)
	}
	return o, nil
}

// LiveModes implements gate.Store.
func (s *tables) LiveModes(ctx context.Context) (list []gate.ModeOverride, err error) {
	err = s.each(ctx, `SELECT `+modeColumns+` FROM mode_overrides WHERE cleared_at = 0 ORDER BY created_at DESC, id DESC`, nil, func(row scanner) error {
		o, err := scanMode(row)
		list = append(list, o)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list mode overrides: %w", err)
	}
	return list, nil
}

// SetMode implements gate.Store.
func (m *Memory) SetMode(ctx context.Context, o gate.ModeOverride, maxLive int) error {
	return m.do(ctx, "SetMode", func(s *memoryState) error {
		if err := checkMode(o); err != nil {
			return err
		}
		if _, taken := s.modes[o.ID]; taken {
			return fmt.Errorf("mode override %s exists: %w", o.ID, gate.ErrIllegalState)
		}
		live := 0
		for _, old := range s.modes {
			if old.TenantID == o.TenantID && old.ClearedAt.IsZero() {
				live++
			}
		}
		if live >= maxLive {
			return fmt.Errorf("%d mode overrides are in force already: %w", live, gate.ErrTooMany)
		}
		o.CreatedAt = stored(o.CreatedAt)
		s.modes[o.ID] = o
		return nil
	})
}

// ClearMode implements gate.Store.
func (m *Memory) ClearMode(ctx context.Context, tenant, id, keyID string, at time.Time) (o gate.ModeOverride, err error) {
	err = m.do(ctx, "ClearMode", func(s *memoryState) error {
		if at.IsZero() {
			return misuse("clearing mode override %s without a time", id)
		}
		had, ok := s.modes[id]
		if !ok || had.TenantID != tenant {
			return notFound("mode override", id)
		}
		if had.ClearedAt.IsZero() {
			had.ClearedAt, had.ClearedBy = stored(at), keyID
			s.modes[id] = had
		}
		o = had
		return nil
	})
	return o, err
}

// LiveModes implements gate.Store.
func (m *Memory) LiveModes(ctx context.Context) (list []gate.ModeOverride, err error) {
	err = m.do(ctx, "LiveModes", func(s *memoryState) error {
		for _, o := range s.modes {
			if o.ClearedAt.IsZero() {
				list = append(list, o)
			}
		}
		slices.SortFunc(list, func(a, b gate.ModeOverride) int {
			return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(b.ID, a.ID))
		})
		return nil
	})
	return list, err
}
