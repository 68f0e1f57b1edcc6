package gate_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/ledger"
	"github.com/actpass/sidecar/store"
)

func (f *fixture) asks(t *testing.T, amount int64, mode string) (evidence.Decision, bool, error) {
	t.Helper()
	act := refundOf(amount)
	act.Intent, act.AgentID, act.Mode = gate.IntentExecute, "support_agent", mode
	return f.Preflight(t.Context(), admin, act)
}

// TestSharesThatAreNotStored: an action that a limit had room for is not let go
// when its share then fails to reach the disk, whatever became of it there.
func TestSharesThatAreNotStored(t *testing.T) {
	for name, mode := range map[string]store.FailMode{"not stored": store.Fails, "stored all the same": store.FailsButPersist} {
		t.Run(name, func(t *testing.T) {
			f := newLimited(t, hardDay)
			f.store.Fail("settled", mode)
			d, refused, err := f.asks(t, 4000, "")
			if err != nil || !refused || d.Enforcement != "block" || d.ReasonCode != gate.ReasonStore {
				t.Fatalf("%+v %v %v", d, refused, err)
			}
			f.store.Fail("settled", store.Works)
			if n := f.used(t, "p/most"); n != 0 {
				t.Errorf("%d are used", n)
			}
			events, outcomes := f.rec.log(t)
			if len(events) != 2 || events[0].Outcome.State != evidence.StatePending || events[1].ID != d.EvidenceEventID || events[1].Outcome.State != evidence.StateBlocked {
				t.Fatalf("%d events: %+v", len(events), events)
			}
			if o := outcomes[events[0].ID]; len(o) != 1 || o[0].State != evidence.StateRefused || !strings.Contains(o[0].Error, d.EvidenceEventID) {
				t.Errorf("the event that nobody was told of ended as %+v", o)
			}
		})
	}

	f := newLimited(t, hardDay)
	f.store.Fail("settled", store.Fails)
	f.rec.fail(errors.New("disk full"))
	if _, _, err := f.asks(t, 4000, ""); !errors.Is(err, gate.ErrUnavailable) {
		t.Errorf("with neither share nor record: %v", err)
	}
	f.store.Fail("settled", store.Works)
	if _, _, err := f.asks(t, 4000, ""); !errors.Is(err, gate.ErrUnavailable) {
		t.Errorf("with a share and no record: %v", err)
	}
	if n := f.used(t, "p/most"); n != 0 {
		t.Errorf("%d are used by what was not answered", n)
	}
}

// TestSharesThatAreNotStoredUnderMonitor: it goes on, and its event says so.
func TestSharesThatAreNotStoredUnderMonitor(t *testing.T) {
	f := newGate(t, "monitor", func(r *gate.Rules) { r.Policy = rules(t, "enforce", limitPolicy(hardDay)).Policy })
	f.store.Fail("settled", store.Fails)
	d, refused, err := f.asks(t, 4000, "")
	if err != nil || refused || d.Enforcement != "none" || d.Would["enforce"] != "block" {
		t.Fatalf("%+v %v %v", d, refused, err)
	}
	events, outcomes := f.rec.log(t)
	last := events[len(events)-1]
	if last.ID != d.EvidenceEventID || !contains(last.Flags, gate.FlagFault) || last.Outcome.State != evidence.StatePending || len(outcomes[events[0].ID]) != 1 {
		t.Errorf("%+v, %v", last, outcomes)
	}
}

func contains(list []string, s string) bool {
	return strings.Contains(" "+strings.Join(list, " ")+" ", " "+s+" ")
}

// slowly is a store whose shares take their time, and a log whose records do.
type slowly struct {
	gate.Store
	gate.Recorder
	share, record chan struct{} // closed when they may be on disk
	appended      chan struct{} // tells that a record is on its way
}

func (s *slowly) Close() error { return s.Store.Close() }

func (s *slowly) ReserveSoon(ctx context.Context, tenant, event string, uses []gate.Use, now time.Time) (int, []int64, func() error, error) {
	over, used, settled, err := s.Store.ReserveSoon(ctx, tenant, event, uses, now)
	return over, used, func() error { <-s.share; return settled() }, err
}

func (s *slowly) Append(ctx context.Context, r evidence.Record) (evidence.Entry, error) {
	s.appended <- struct{}{}
	<-s.record
	return s.Recorder.Append(ctx, r)
}

// TestAnswersWaitForBoth: share and record go to the disk at the same time, and
// nothing is answered before both are there.
func TestAnswersWaitForBoth(t *testing.T) {
	for _, first := range []string{"share", "record"} {
		f := newLimited(t, hardDay)
		s := &slowly{Store: f.store, Recorder: f.rec, share: make(chan struct{}), record: make(chan struct{}), appended: make(chan struct{}, 1)}
		g, err := gate.New(gate.Options{Store: s, Recorder: s, RedactKey: make([]byte, 32), Now: f.time})
		if err != nil {
			t.Fatal(err)
		}
		g.Load(f.rules)
		f.Gate = g
		answered := make(chan error, 1)
		go func() {
			d, _, err := f.asks(t, 100, "")
			if err == nil && d.Enforcement != "none" {
				err = fmt.Errorf("%+v", d)
			}
			answered <- err
		}()
		select {
		case <-s.appended:
		case <-time.After(10 * time.Second):
			t.Fatal("the record waits for the share")
		}
		one, other := s.share, s.record
		if first == "record" {
			one, other = other, one
		}
		close(one)
		select {
		case err := <-answered:
			t.Errorf("answered with the %s alone: %v", first, err)
		case <-time.After(20 * time.Millisecond):
		}
		close(other)
		if err := <-answered; err != nil {
			t.Error(err)
		}
	}
}

// TestWhatIsAnsweredIsCounted: a process that asks is killed at any moment. Each
// action that it was told of has its share and its event; none else has a share.
func TestWhatIsAnsweredIsCounted(t *testing.T) {
	const dirVar = "ACTPASS_TEST_ASKING_DIR"
	site := func(dir string) (*fixture, *store.SQLite, *ledger.Log) {
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
		f := &fixture{Gate: g, rules: rules(t, "enforce", limitPolicy(strings.Replace(hardDay, "12000", "1000000", 1)))}
		g.Load(f.rules)
		return f, db, trail
	}
	if dir := os.Getenv(dirVar); dir != "" { // the process that dies
		f, _, _ := site(dir)
		for range 4 {
			go func() {
				for {
					d, refused, err := f.asks(t, 1, "")
					if err != nil || refused {
						fmt.Println("fault", err)
						return
					}
					fmt.Println("told", d.EvidenceEventID)
				}
			}()
		}
		select {}
	}
	dir, told := t.TempDir(), map[string]bool{}
	for round := range 4 {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestWhatIsAnsweredIsCounted$")
		cmd.Env = append(os.Environ(), dirVar+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		n := 0
		for lines := bufio.NewScanner(out); lines.Scan(); {
			id, ok := strings.CutPrefix(lines.Text(), "told ")
			if !ok {
				t.Fatal(lines.Text())
			}
			told[id] = true
			if n++; n == 30+17*round {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait()
		f, db, trail := site(dir)
		list, err := trail.Read(0, 10000)
		if err != nil {
			t.Fatal(err)
		}
		recorded := map[string]bool{}
		for _, entry := range list {
			e, _, err := evidence.DecodeRecord(entry.Record)
			if err != nil {
				t.Fatal(err)
			}
			recorded[e.ID] = true
		}
		if _, err := f.ReleaseUnrecorded(t.Context(), func(id string) bool { return recorded[id] }); err != nil {
			t.Fatal(err)
		}
		for id := range told {
			if !recorded[id] {
				t.Errorf("%s was told and is not on record", id)
			}
		}
		if used := f.used(t, "p/most"); used < int64(len(told)) || used > int64(len(recorded)) {
			t.Errorf("%d are used, %d were told of, %d are on record", used, len(told), len(recorded))
		}
		if err := errors.Join(db.Close(), trail.Close()); err != nil {
			t.Fatal(err)
		}
	}
}
