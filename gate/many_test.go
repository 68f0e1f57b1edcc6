package gate_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/ledger"
	"github.com/actpass/sidecar/store"
)

const everyRefundAsks = `
policies:
  - name: ask
    version: 1
    tools: ["**"]
    rules:
      - { name: always, when: "true", decision: require_approval, reason_code: a.b, approval: { approvers: [support-leads], expires: 1h } }
`

// TestManyHolds opens holds on the real store and log, approves all of them, and
// sees each call go. With ACTPASS_LONG=1 there are 10,000, which must be through
// within 30 seconds.
func TestManyHolds(t *testing.T) {
	n, budget := 300, 30*time.Second
	if os.Getenv("ACTPASS_LONG") != "" {
		n = 10_000
	}
	dir := t.TempDir()
	db, err := store.OpenSQLite(filepath.Join(dir, "actpass.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	trail, err := ledger.Open(filepath.Join(dir, "ledger"), ledger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	g, err := gate.New(gate.Options{Store: db, Recorder: trail, RedactKey: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.Drain()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
		if err := trail.Close(); err != nil {
			t.Error(err)
		}
	})
	r := rules(t, "enforce", everyRefundAsks)
	r.Hold, r.MaxHolds, r.MaxHoldsPerAgent = 10*time.Minute, n, n
	g.Load(r)
	f := &fixture{Gate: g}

	idle, stacks := memory()
	var sent, refused atomic.Int64
	var calls sync.WaitGroup
	began := time.Now()
	for i := range n {
		calls.Go(func() {
			permit, ref := g.Check(t.Context(), f.refund(fmt.Sprint(1000+i)))
			if permit == nil {
				refused.Add(1)
				t.Errorf("call %d: %s", i, ref.Sentence)
				return
			}
			sent.Add(1)
			permit.Done(gate.Outcome{State: evidence.StateForwarded, Status: 200})
		})
	}
	var ids []string
	for len(ids) < n && refused.Load() == 0 {
		time.Sleep(20 * time.Millisecond)
		ids = ids[:0]
		for cursor := ""; ; {
			page, next, err := g.Approvals(t.Context(), approver, gate.ApprovalQuery{State: gate.ApprovalPending, Cursor: cursor, Limit: 1000})
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range page {
				ids = append(ids, a.ID)
			}
			if cursor = next; cursor == "" {
				break
			}
		}
	}
	opened := time.Since(began)
	held, stacked := memory()
	t.Logf("%d holds opened in %s, %d bytes of heap and %d of stack each", n, opened, (held-idle)/int64(n), (stacked-stacks)/int64(n))
	if each := (stacked - stacks) / int64(n); each > heldStack {
		t.Errorf("a held call keeps a stack of %d bytes", each)
	}

	began = time.Now()
	work := make(chan string)
	var people sync.WaitGroup
	for range 16 {
		people.Go(func() {
			for id := range work {
				if _, err := g.Decide(t.Context(), approver, id, gate.Approve, "", nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for _, id := range ids {
		work <- id
	}
	close(work)
	people.Wait()
	decided := time.Since(began)
	calls.Wait()
	took := time.Since(began)
	t.Logf("%d approved in %s, every call through after %s (%.0f/s)", n, decided, took, float64(n)/took.Seconds())
	if sent.Load() != int64(n) || took > budget {
		t.Errorf("%d of %d calls went within %s", sent.Load(), n, took)
	}
	if list, err := db.Unrecorded(t.Context(), 10); err != nil || len(list) > 0 {
		t.Errorf("%d moves are not on record: %v", len(list), err)
	}
}

// memory is what heap and stacks take, in bytes.
func memory() (heap, stacks int64) {
	for range 5 { // a stack shrinks by half each time
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse), int64(m.StackInuse)
}

// TestHoldSeesTheMovesOfOthers: a decision that another process wrote to the
// shared store reaches the held call, and any number of calls ask no more often.
func TestHoldSeesTheMovesOfOthers(t *testing.T) {
	f := newGate(t, "enforce", longHold)
	defer f.Drain()
	other, err := gate.New(gate.Options{Store: f.store, Recorder: &recorder{}, RedactKey: make([]byte, 32), Now: f.time})
	if err != nil {
		t.Fatal(err)
	}
	other.Load(f.rules)
	out := f.held(t, f.refund("25000"))
	a := f.pending(t)
	time.Sleep(50 * time.Millisecond) // past the look that everybody takes at first
	if _, err := other.Decide(t.Context(), approver, a.ID, gate.Approve, "", nil); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-out:
		if got.permit == nil {
			t.Errorf("%+v", got.refusal)
		}
	case <-time.After(5 * time.Second):
		t.Error("the held call did not see that it was approved elsewhere")
	}
}

// TestMovesOfOneApprovalKeepTheirOrder: a page of moves is written at once, and
// yet in the log approved comes before consumed; a failure leaves what was not
// written for the next time, and nothing twice.
func TestMovesOfOneApprovalKeepTheirOrder(t *testing.T) {
	f := newGate(t, "enforce", nil)
	const n = 9
	for i := range n {
		_, held := f.Check(t.Context(), f.refund(fmt.Sprint(25000+i)))
		for _, step := range []string{"key_1", "key_2"} {
			v := gate.Vote{KeyID: step, Groups: []string{"support-leads"}, Decision: gate.Escalate, Time: f.time()}
			if step == "key_2" {
				v.Decision = gate.Approve
			}
			if _, err := f.store.Vote(t.Context(), "acme", held.Approval, v, []string{"support-leads"}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := f.store.Consume(t.Context(), "acme", held.Approval, "ev_1", f.time()); err != nil {
			t.Fatal(err)
		}
	}
	f.rec.fail(fmt.Errorf("disk full"))
	if err := f.RecordTransitions(t.Context()); err == nil {
		t.Fatal("no error though nothing was written")
	}
	f.rec.fail(nil)
	if err := f.RecordTransitions(t.Context()); err != nil {
		t.Fatal(err)
	}
	moves := map[string]string{}
	events, _ := f.rec.log(t)
	for _, e := range events {
		if e.Kind == evidence.KindApproval {
			moves[e.Approval.ID] += " " + e.Approval.State
		}
	}
	for id, got := range moves {
		if got != " pending approved consumed" {
			t.Errorf("%s:%s", id, got)
		}
	}
	if len(moves) != n {
		t.Errorf("%d approvals on record, not %d", len(moves), n)
	}
}
