package store

import (
	"context"
	"errors"
	"testing"

	"github.com/actpass/sidecar/gate"
)

func TestMemoryFails(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		name      string
		mode      FailMode
		method    string
		wantErr   bool
		persisted bool
	}{
		{"works", Works, "OpenApproval", false, true},
		{"fails", Fails, "OpenApproval", true, false},
		{"fails but persists", FailsButPersist, "OpenApproval", true, true},
		{"lost", LostButDone, "OpenApproval", false, false},
		{"another method", Fails, "Consume", false, true},
		{"all", Fails, "*", true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := NewMemory()
			m.Fail(c.method, c.mode)
			got, isNew, err := m.OpenApproval(ctx, pendingApproval("apr_1", "f"), roomFor(9))
			if errors.Is(err, ErrInjected) != c.wantErr || isNew == c.wantErr || (got.ID == "") != c.wantErr {
				t.Errorf("got %q, new %v, %v", got.ID, isNew, err)
			}
			m.Fail(c.method, Works)
			if _, err := m.GetApproval(ctx, "acme", "apr_1"); (err == nil) != c.persisted {
				t.Errorf("persisted: %v", err)
			}
		})
	}
	// A method's own mode stands before that of all.
	m := NewMemory()
	m.Fail("*", Fails)
	m.Fail("Ping", Works)
	if err := m.Ping(ctx); err != nil {
		t.Errorf("ping: %v", err)
	}
}

// TestMemoryLosesWhole: what is lost takes its transition along.
func TestMemoryLosesWhole(t *testing.T) {
	ctx := context.Background()
	m := NewMemory()
	if _, _, err := m.OpenApproval(ctx, pendingApproval("apr_1", "f"), roomFor(9)); err != nil {
		t.Fatal(err)
	}
	m.Fail("Vote", LostButDone)
	a, err := m.Vote(ctx, "acme", "apr_1", gate.Vote{KeyID: "k", Decision: "approve", Time: start}, nil)
	if err != nil || a.State != gate.ApprovalApproved {
		t.Errorf("told %s, %v", a.State, err)
	}
	if a, err = m.GetApproval(ctx, "acme", "apr_1"); err != nil || a.State != gate.ApprovalPending || len(a.Votes) != 0 {
		t.Errorf("kept %s with %d votes, %v", a.State, len(a.Votes), err)
	}
	if list, err := m.Unrecorded(ctx, 9); err != nil || len(list) != 0 {
		t.Errorf("kept transitions %v, %v", list, err)
	}
}

func TestMemoryPolices(t *testing.T) {
	ctx := context.Background()
	approved := func() *Memory {
		m := NewMemory()
		if _, _, err := m.OpenApproval(ctx, pendingApproval("apr_1", "f"), roomFor(9)); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Vote(ctx, "acme", "apr_1", gate.Vote{KeyID: "k", Decision: "approve", Time: start}, nil); err != nil {
			t.Fatal(err)
		}
		return m
	}
	for name, f := range map[string]func(m *Memory){
		"an event that consumes twice": func(m *Memory) {
			if _, err := m.Consume(ctx, "acme", "apr_1", "ev_1", start); err != nil {
				t.Fatal(err)
			}
			_, _ = m.Consume(ctx, "acme", "apr_1", "ev_1", start)
		},
		"an unknown transition": func(m *Memory) { _ = m.MarkRecorded(ctx, 2) },
		"a negative amount": func(m *Memory) {
			_, _, _ = m.Reserve(ctx, "acme", "ev_1", []gate.Use{{Limit: "l", Amount: -1, Max: 1, Window: 1e9}}, start)
		},
		"an approval without an end": func(m *Memory) { _, _, _ = m.OpenApproval(ctx, gate.Approval{ID: "a"}, roomFor(1)) },
	} {
		t.Run(name, func(t *testing.T) {
			m := approved()
			defer func() {
				err, _ := recover().(error)
				if !errors.Is(err, ErrMisuse) {
					t.Errorf("recovered %v", err)
				}
				// It is not stuck after the panic.
				if err := m.Ping(ctx); err != nil {
					t.Error(err)
				}
			}()
			f(m)
		})
	}
}
