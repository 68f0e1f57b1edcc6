package gate_test

import (
	"errors"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/store"
)

var modeAdmin = gate.Identity{TenantID: "acme", KeyID: "key_admin", Name: "ops", Role: gate.RoleAdmin}

func TestAModeOverrideTightensWhileRunning(t *testing.T) {
	f := newGate(t, gate.ModeMonitor, nil)
	ctx := t.Context()
	ours := gate.Identity{TenantID: "acme", AgentID: "support_agent"}
	mode := func(id gate.Identity, want string) {
		t.Helper()
		if got := f.StrictestFor(id, true); got != want {
			t.Errorf("%s of %s is judged in %s, want %s", id.AgentID, id.TenantID, got, want)
		}
	}
	o, err := f.SetMode(ctx, modeAdmin, gate.NewMode{Tool: "stripe.*", AgentID: "support_*", Mode: gate.ModeEnforce, Reason: "a quiet week"})
	if err != nil {
		t.Fatal(err)
	}
	mode(ours, gate.ModeEnforce)
	mode(gate.Identity{TenantID: "acme", AgentID: "other"}, gate.ModeMonitor)
	mode(gate.Identity{TenantID: "rival", AgentID: "support_agent"}, gate.ModeMonitor)
	if got := f.Rules().ModeOf("github.issue.create", "support_agent"); got != gate.ModeMonitor {
		t.Errorf("another tool is judged in %s", got)
	}
	for tenant, want := range map[string]string{"acme": gate.ModeEnforce, "rival": gate.ModeWarn} { // a question to the record knows it, too
		if got := f.Rules().With(f.Rules().Policy, gate.ModeWarn, tenant).ModeOf("stripe.refund.create", "support_agent"); got != want {
			t.Errorf("%s is supposed in %s, want %s", tenant, got, want)
		}
	}
	f.Load(f.rules) // a reload keeps it
	mode(ours, gate.ModeEnforce)
	if err := f.LoadModes(ctx); err != nil { // and so does a start
		t.Fatal(err)
	}
	mode(ours, gate.ModeEnforce)
	if _, err := f.ClearMode(ctx, gate.Identity{TenantID: "rival", Role: gate.RoleAdmin}, o.ID, ""); !errors.Is(err, gate.ErrNotFound) {
		t.Errorf("another tenant clears it: %v", err)
	}
	if _, err := f.ClearMode(ctx, modeAdmin, o.ID, "too early"); err != nil {
		t.Fatal(err)
	}
	mode(ours, gate.ModeMonitor)
}

func TestAModeOverrideIsOnRecordFirst(t *testing.T) {
	f := newGate(t, gate.ModeMonitor, nil)
	ctx := t.Context()
	wish := gate.NewMode{Mode: gate.ModeStrict}
	f.rec.fail(errors.New("disk full"))
	if _, err := f.SetMode(ctx, modeAdmin, wish); !errors.Is(err, gate.ErrUnavailable) {
		t.Errorf("set without a record: %v", err)
	}
	if list, err := f.store.LiveModes(ctx); err != nil || len(list) != 0 {
		t.Errorf("%d are stored without a record, %v", len(list), err)
	}
	f.rec.fail(nil)
	o, err := f.SetMode(ctx, modeAdmin, wish)
	if err != nil {
		t.Fatal(err)
	}
	f.rec.fail(errors.New("disk full"))
	if _, err := f.ClearMode(ctx, modeAdmin, o.ID, ""); !errors.Is(err, gate.ErrUnavailable) {
		t.Errorf("cleared without a record: %v", err)
	}
	if got := f.ModeFor(gate.Identity{TenantID: "acme"}); got != gate.ModeStrict {
		t.Errorf("it is %s", got)
	}
}

func TestWhatAModeOverrideCannotBe(t *testing.T) {
	f := newGate(t, gate.ModeEnforce, nil)
	var field *gate.FieldError
	for _, m := range []string{"", "odd", gate.ModeMonitor, gate.ModeWarn, gate.ModeEnforce} {
		if _, err := f.SetMode(t.Context(), modeAdmin, gate.NewMode{Mode: m}); !errors.As(err, &field) || field.Field != "mode" {
			t.Errorf("%q: %v", m, err)
		}
	}
	if _, err := f.SetMode(t.Context(), gate.Identity{TenantID: "acme", Role: gate.RoleApprover}, gate.NewMode{Mode: gate.ModeStrict}); !errors.Is(err, gate.ErrNotAllowed) {
		t.Errorf("an approver sets a mode: %v", err)
	}
	// An error that persisted all the same: what is in force is what a restart finds.
	f.store.Fail("SetMode", store.FailsButPersist)
	if _, err := f.SetMode(t.Context(), modeAdmin, gate.NewMode{Mode: gate.ModeStrict}); err == nil {
		t.Error("no error")
	}
	if got := f.ModeFor(gate.Identity{TenantID: "acme"}); got != gate.ModeStrict {
		t.Errorf("it is %s", got)
	}
}

// Another sidecar on the same store has set it: clearing it is on record all the same.
func TestAForeignModeOverrideIsClearedOnRecord(t *testing.T) {
	f := newGate(t, gate.ModeMonitor, nil)
	ctx := t.Context()
	o := gate.ModeOverride{ID: "mod_foreign", TenantID: "acme", Mode: gate.ModeStrict, CreatedAt: time.Unix(1, 0)}
	if err := f.store.SetMode(ctx, o, 9); err != nil {
		t.Fatal(err)
	}
	f.rec.fail(errors.New("disk full"))
	if _, err := f.ClearMode(ctx, modeAdmin, o.ID, ""); !errors.Is(err, gate.ErrUnavailable) {
		t.Errorf("cleared without a record: %v", err)
	}
	f.rec.fail(nil)
	if _, err := f.ClearMode(ctx, modeAdmin, o.ID, ""); err != nil {
		t.Fatal(err)
	}
	if list, err := f.store.LiveModes(ctx); err != nil || len(list) != 0 {
		t.Errorf("%d are in force, %v", len(list), err)
	}
}
