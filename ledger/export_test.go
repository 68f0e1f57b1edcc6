package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
)

var exportStart = time.Date(2026, 1, 31, 9, 0, 0, 0, time.UTC)

func minute(n int) time.Time { return exportStart.Add(time.Duration(n) * time.Minute) }

// twoTenants is a log in which the events and outcomes of two tenants are mixed.
func twoTenants(t *testing.T) *Log {
	t.Helper()
	l, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	add := func(r interface{ Encode() ([]byte, error) }) {
		t.Helper()
		b, err := r.Encode()
		if err == nil {
			_, err = l.Append(t.Context(), asRecord(b))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	event := func(id, tenant string, at int) {
		add(&evidence.Event{ID: id, Kind: evidence.KindAction, Time: evidence.Time{Time: minute(at)}, TenantID: tenant, Outcome: &evidence.Outcome{State: evidence.StatePending}})
	}
	outcome := func(id string, at int) {
		add(&evidence.OutcomeRecord{Kind: evidence.KindOutcome, EventID: id, Time: evidence.Time{Time: minute(at)}, Outcome: evidence.Outcome{State: evidence.StateForwarded}})
	}
	event("ev_a1", "acme", 0)
	event("ev_b1", "other", 1)
	outcome("ev_b1", 2)
	outcome("ev_a1", 3)
	event("ev_a2", "acme", 4)
	event("ev_none", "", 5)
	outcome("ev_a2", 6)
	outcome("ev_early", 7) // its event is before what is left of the log
	return l
}

func nobodys(string) (bool, error) { return false, nil }

func exported(t *testing.T, l *Log, s Selection) []string {
	t.Helper()
	var bundle bytes.Buffer
	n, err := l.ExportSelected(t.Context(), &bundle, s)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	rep, err := evidence.VerifyBundle(bytes.NewReader(bundle.Bytes()), l.PublicKey(), func(e evidence.Entry) error {
		event, outcome, err := evidence.DecodeRecord(e.Record)
		if event != nil {
			got = append(got, event.ID)
		} else if outcome != nil {
			got = append(got, "outcome of "+outcome.EventID)
		}
		return err
	})
	if err != nil || int(rep.Records) != n {
		t.Fatalf("%d of %d records verify: %v", rep.Records, n, err)
	}
	return got
}

func TestExportSelected(t *testing.T) {
	l := twoTenants(t)
	for name, c := range map[string]struct {
		selection Selection
		want      []string
	}{
		"tenant":       {Selection{Tenant: "acme", Owns: nobodys}, []string{"ev_a1", "outcome of ev_a1", "ev_a2", "outcome of ev_a2"}},
		"other tenant": {Selection{Tenant: "other", Owns: nobodys}, []string{"ev_b1", "outcome of ev_b1"}},
		"nobody":       {Selection{Tenant: "acm", Owns: nobodys}, nil},
		"range":        {Selection{Tenant: "acme", Owns: nobodys, Since: minute(3), Until: minute(6)}, []string{"outcome of ev_a1", "ev_a2"}},
		"miss": {
			Selection{Tenant: "acme", Since: minute(6), Owns: func(id string) (bool, error) { return id == "ev_early", nil }},
			[]string{"outcome of ev_a2", "outcome of ev_early"},
		},
	} {
		if got := exported(t, l, c.selection); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// TestExportAsksForWhatItForgot keeps less in mind than there is open.
func TestExportAsksForWhatItForgot(t *testing.T) {
	l := twoTenants(t)
	var asked []string
	s := Selection{Tenant: "acme", remember: 1, Owns: func(id string) (bool, error) {
		asked = append(asked, id)
		return id[:4] == "ev_a", nil
	}}
	got := exported(t, l, s)
	if want := "[ev_a1 outcome of ev_a1 ev_a2 outcome of ev_a2]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
	if want := "[ev_b1 ev_early]"; fmt.Sprint(asked) != want {
		t.Errorf("asked for %v, want %s", asked, want)
	}
}

func TestExportStops(t *testing.T) {
	l := twoTenants(t)
	broken := errors.New("no index")
	if _, err := l.ExportSelected(t.Context(), &bytes.Buffer{}, Selection{Tenant: "acme", Owns: func(string) (bool, error) { return false, broken }}); !errors.Is(err, broken) {
		t.Errorf("the index fails: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.ExportSelected(ctx, &bytes.Buffer{}, Selection{Tenant: "acme", Owns: nobodys}); !errors.Is(err, context.Canceled) {
		t.Errorf("the caller left: %v", err)
	}
}
