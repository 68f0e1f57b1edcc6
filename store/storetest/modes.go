package storetest

import (
	"errors"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
)

func (s *suite) mode(tenant string, created time.Time) gate.ModeOverride {
	return gate.ModeOverride{
		ID: s.id("mod"), TenantID: tenant, Tool: "stripe.*", AgentID: "support_*", Mode: gate.ModeEnforce, Reason: "a quiet week",
		KeyID: "key_admin", KeyName: "ops", CreatedAt: created,
	}
}

func testModes(t *testing.T, s *suite) {
	live := func(want ...gate.ModeOverride) {
		t.Helper()
		got, err := s.LiveModes(s.ctx)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "in force", got, want)
	}
	is := func(err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	live()
	first, second, other := s.mode("acme", noon), s.mode("acme", at(time.Minute)), s.mode("other", at(2*time.Minute))
	second.Tool, second.AgentID, second.Mode = "", "", gate.ModeStrict
	is(s.SetMode(s.ctx, first, 2), nil)
	is(s.SetMode(s.ctx, first, 2), gate.ErrIllegalState)
	is(s.SetMode(s.ctx, second, 2), nil)
	is(s.SetMode(s.ctx, s.mode("acme", noon), 2), gate.ErrTooMany)
	is(s.SetMode(s.ctx, other, 2), nil)
	live(other, second, first)

	_, err := s.ClearMode(s.ctx, "other", first.ID, "key_x", at(time.Hour))
	is(err, gate.ErrNotFound)
	cleared, err := s.ClearMode(s.ctx, "acme", first.ID, "key_x", at(time.Hour))
	is(err, nil)
	first.ClearedAt, first.ClearedBy = at(time.Hour), "key_x"
	same(t, "cleared", cleared, first)
	again, err := s.ClearMode(s.ctx, "acme", first.ID, "key_y", at(2*time.Hour))
	is(err, nil)
	same(t, "cleared again", again, first)
	live(other, second)
	is(s.SetMode(s.ctx, s.mode("acme", noon), 2), nil)

	loose, gone := s.mode("acme", noon), s.mode("acme", noon)
	loose.Mode, gone.ClearedBy = gate.ModeMonitor, "key_x"
	for _, o := range []gate.ModeOverride{{}, loose, gone} {
		is(s.SetMode(s.ctx, o, 9), s.misuse)
	}
	_, err = s.ClearMode(s.ctx, "acme", second.ID, "key_x", time.Time{})
	is(err, s.misuse)
}
