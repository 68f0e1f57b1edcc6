package proxy

import (
	"context"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
)

// faulty is a store whose keys cannot be looked up while broken.
type faulty struct {
	gate.Store
	broken atomic.Bool
}

func (f *faulty) KeyByHash(ctx context.Context, hash [32]byte) (gate.Key, error) {
	if f.broken.Load() {
		return gate.Key{}, errors.New("disk I/O error")
	}
	return f.Store.KeyByHash(ctx, hash)
}

// withFaultyKeys gives the world a gate whose clock and key store can be set,
// and a key of agent risky with a mode of its own.
func withFaultyKeys(t *testing.T, f *faulty, now *atomic.Int64, mode string, secret *string) worldOption {
	return func(w *world, o *Options) {
		f.Store = w.store
		now.Store(time.Now().UnixNano())
		var err error
		w.gate, err = gate.New(gate.Options{
			Store: f, Recorder: w.trail, RedactKey: make([]byte, 32), Now: func() time.Time { return time.Unix(0, now.Load()) },
		})
		if err != nil {
			t.Fatal(err)
		}
		o.Gate = w.gate
		_, *secret, err = w.gate.CreateKey(t.Context(), gate.Identity{TenantID: "acme", Role: gate.RoleAdmin},
			gate.NewKey{Name: "k", Role: gate.RoleGateway, AgentID: "risky", Mode: mode})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func basicLine(user, secret string) string {
	return "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+secret)) + "\r\n"
}

// While keys cannot be looked up, monitor goes on, under whom the key last
// belonged to if that is known, and the record says so.
func TestStoreFaultAtKeyLookUp(t *testing.T) {
	for i, c := range []struct {
		mode   string // of the key
		seen   bool   // before the store broke
		later  time.Duration
		agent  string
		status int
	}{
		{"", false, time.Minute, "agent", 200},
		{"", true, time.Minute, "risky", 200},
		{"", true, 11 * time.Minute, "agent", 200},
		{gate.ModeStrict, true, time.Minute, "risky", 503},
	} {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			var f faulty
			var now atomic.Int64
			var secret string
			w := newWorld(t, withMode(gate.ModeMonitor), withFaultyKeys(t, &f, &now, c.mode, &secret))
			get := "GET http://api.test/x HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n" + basicLine("risky", secret) + "\r\n"
			if c.seen {
				if got := w.raw(w.front, get); got.status != 200 {
					t.Fatalf("before: %d %s", got.status, got.body)
				}
			}
			f.broken.Store(true)
			now.Add(int64(c.later))
			if got := w.raw(w.front, get); got.status != c.status {
				t.Errorf("%d %s", got.status, got.body)
			}
			e := w.trail.last(t)
			if e.AgentID != c.agent || !strings.Contains(strings.Join(e.Notes, " "), "could not be looked up") || len(e.Flags) == 0 {
				t.Errorf("agent %q, flags %q, notes %q", e.AgentID, e.Flags, e.Notes)
			}
		})
	}
}

func TestKeyOfAnApproverIsNoAgents(t *testing.T) {
	for mode, want := range map[string]int{gate.ModeMonitor: 200, gate.ModeEnforce: 407} {
		w := newWorld(t, withMode(mode))
		_, secret, err := w.gate.CreateKey(t.Context(), gate.Identity{TenantID: "acme", Role: gate.RoleAdmin},
			gate.NewKey{Name: "ann", Role: gate.RoleApprover, Groups: []string{"support-leads"}})
		if err != nil {
			t.Fatal(err)
		}
		got := w.raw(w.front, "GET http://api.test/x HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n"+basicLine("billing", secret)+"\r\n")
		e := w.trail.last(t)
		if got.status != want || e.AgentID != "agent" || !strings.Contains(strings.Join(e.Notes, " "), "speaks for no agent") {
			t.Errorf("%s: %d, agent %q, notes %q", mode, got.status, e.AgentID, e.Notes)
		}
	}
}
