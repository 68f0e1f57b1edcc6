package gate_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/ledger"
	"github.com/actpass/sidecar/store"
)

// killer is a store whose process dies at one moment of an approval's use, by a
// signal that nothing can catch.
type killer struct {
	gate.Store
	at string
}

func die() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

func (k *killer) Consume(ctx context.Context, tenant, id, event string, now time.Time) (gate.Approval, error) {
	if k.at == "before the use" {
		die()
	}
	a, err := k.Store.Consume(ctx, tenant, id, event, now)
	if err == nil && k.at == "after the use" {
		die()
	}
	return a, err
}

func (k *killer) ClaimPassport(ctx context.Context, tenant, jti, event string, at, expires time.Time) error {
	err := k.Store.ClaimPassport(ctx, tenant, jti, event, at, expires)
	if err == nil && k.at == "after the passport" {
		die()
	}
	return err
}

// site is a gate over a database and a log in a directory.
type site struct {
	*fixture
	db    *store.SQLite
	trail *ledger.Log
}

func openSite(t *testing.T, dir, die string) *site {
	t.Helper()
	db, err := store.OpenSQLite(filepath.Join(dir, "actpass.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	trail, err := ledger.Open(filepath.Join(dir, "ledger"), ledger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	g, err := gate.New(gate.Options{Store: &killer{db, die}, Recorder: trail, RedactKey: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	s := &site{withAuthority(&fixture{Gate: g, rules: rules(t, "enforce", examplePolicy(t))}), db, trail}
	g.Load(s.rules)
	return s
}

func (s *site) close(t *testing.T) {
	t.Helper()
	s.Drain()
	if err := s.db.Close(); err != nil {
		t.Error(err)
	}
	if err := s.trail.Close(); err != nil {
		t.Error(err)
	}
}

// use makes the approved call in one of the ways, and says whether it may go.
func (s *site) use(t *testing.T, how, token string) bool {
	t.Helper()
	switch how {
	case "the call's own retry":
		permit, _ := s.Check(t.Context(), s.refund("25000"))
		return permit != nil
	case "its passport, monitored":
		s.rules.Mode = gate.ModeMonitor
		s.Load(s.rules)
		fallthrough
	case "its passport":
		permit, _ := s.Check(t.Context(), s.with(token, "25000"))
		return permit != nil
	}
	act := refundOf(25000)
	act.Intent, act.AgentID = gate.IntentExecute, "support_agent"
	if how == "preflight with its passport" {
		act.Passport = token
	}
	d, refused, err := s.Preflight(t.Context(), admin, act)
	return err == nil && !refused && d.Enforcement == "none"
}

// outcomes gives the last outcome of each action on record.
func (s *site) outcomes(t *testing.T) map[string]string {
	t.Helper()
	list, err := s.trail.Read(0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	last := map[string]string{}
	for _, entry := range list {
		switch e, o, err := evidence.DecodeRecord(entry.Record); {
		case err != nil:
			t.Fatal(err)
		case o != nil:
			last[o.EventID] = o.Outcome.State
		case e.Kind == evidence.KindAction:
			last[e.ID] = ""
			if e.Outcome != nil {
				last[e.ID] = e.Outcome.State
			}
		}
	}
	return last
}

const (
	killedDir = "ACTPASS_TEST_KILLED_DIR"
	killedJob = "ACTPASS_TEST_KILLED_JOB"
)

type killedAct struct{ How, Die, Token string }

// TestKilledChild is the process that dies; alone it does nothing.
func TestKilledChild(t *testing.T) {
	dir := os.Getenv(killedDir)
	if dir == "" {
		t.Skip("only as a child of TestKilledWhileAnApprovalIsUsed")
	}
	var act killedAct
	if err := json.Unmarshal([]byte(os.Getenv(killedJob)), &act); err != nil {
		t.Fatal(err)
	}
	s := openSite(t, dir, act.Die)
	t.Fatalf("it lives, and the call may go: %v", s.use(t, act.How, act.Token))
}

// TestKilledWhileAnApprovalIsUsed kills the process right before and right after the
// durable use of an approval, in each of the ways in which one is used. What was
// used up stands under an event that is on record, and is ambiguous after the next
// start; what was not used up is used by the next attempt. Nothing is lost without
// a record that says so.
func TestKilledWhileAnApprovalIsUsed(t *testing.T) {
	for _, how := range []string{"the call's own retry", "its passport", "preflight", "preflight with its passport"} {
		for _, moment := range []string{"before the use", "after the use", "after the passport"} {
			if moment == "after the passport" && how != "its passport" && how != "preflight with its passport" {
				continue
			}
			t.Run(how+", "+moment, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				s := openSite(t, dir, "")
				id := s.question(t, how)
				a, err := s.Decide(t.Context(), approver, id, gate.Approve, "", nil)
				if err != nil {
					t.Fatal(err)
				}
				token, err := s.PassportFor(t.Context(), approver, a)
				if err != nil {
					t.Fatal(err)
				}
				s.close(t)

				act, err := json.Marshal(killedAct{how, moment, token.Token})
				if err != nil {
					t.Fatal(err)
				}
				kill(t, dir, act)
				s = openSite(t, dir, "")
				defer s.close(t)
				if err := s.MarkAmbiguous(t.Context(), s.trail.Unfinished()); err != nil {
					t.Fatal(err)
				}
				if err := s.RecordTransitions(t.Context()); err != nil {
					t.Fatal(err)
				}
				a, err = s.Approval(t.Context(), approver, id, 0)
				if err != nil {
					t.Fatal(err)
				}
				state, onRecord := s.outcomes(t)[a.ConsumedBy]
				switch {
				case moment == "before the use" && a.State != gate.ApprovalApproved:
					t.Errorf("it was not used, and is %s", a.State)
				case moment == "before the use":
					if !s.use(t, how, token.Token) {
						t.Error("what was not used up cannot be used")
					}
				case a.State != gate.ApprovalConsumed || a.ConsumedBy == "":
					t.Errorf("it was used, and is %s", a.State)
				case !onRecord || state != evidence.StateAmbiguous:
					t.Errorf("used up by event %s, of which the record says %q (there: %v)", a.ConsumedBy, state, onRecord)
				case s.use(t, how, token.Token):
					t.Error("it was used twice")
				}
			})
		}
	}
}

// kill has a child use the approval, and die of it.
func kill(t *testing.T, dir string, act []byte) {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^TestKilledChild$")
	child.Env = append(os.Environ(), killedDir+"="+dir, killedJob+"="+string(act))
	out, err := child.CombinedOutput()
	if status, ok := child.ProcessState.Sys().(syscall.WaitStatus); err == nil || !ok || status.Signal() != syscall.SIGKILL {
		t.Fatalf("it was not killed: %v\n%s", err, out)
	}
}

// TestKilledUnderMonitor: under monitor a call goes whether or not it is on record, so
// that its event comes after the use of an approval that it presents. Killed between
// the two, it has no event; the use has one after the next start, which names it, and
// the same call goes through.
func TestKilledUnderMonitor(t *testing.T) {
	for _, moment := range []string{"before the use", "after the use", "after the passport"} {
		t.Run(moment, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := openSite(t, dir, "")
			id := s.question(t, "its passport")
			a, err := s.Decide(t.Context(), approver, id, gate.Approve, "", nil)
			if err != nil {
				t.Fatal(err)
			}
			token, err := s.PassportFor(t.Context(), approver, a)
			if err != nil {
				t.Fatal(err)
			}
			s.close(t)
			act, err := json.Marshal(killedAct{"its passport, monitored", moment, token.Token})
			if err != nil {
				t.Fatal(err)
			}
			kill(t, dir, act)

			s = openSite(t, dir, "")
			defer s.close(t)
			if err := s.RecordTransitions(t.Context()); err != nil {
				t.Fatal(err)
			}
			if a, err = s.Approval(t.Context(), approver, id, 0); err != nil {
				t.Fatal(err)
			}
			told := s.moves(t, id, gate.ApprovalConsumed)
			switch {
			case moment == "before the use":
				if a.State != gate.ApprovalApproved || len(told) != 0 {
					t.Errorf("not used, and it is %s, on record as %v", a.State, told)
				}
			case a.State != gate.ApprovalConsumed || len(told) != 1 || told[0] != "used by "+a.ConsumedBy:
				t.Errorf("it is %s by %q, and on record is %v", a.State, a.ConsumedBy, told)
			}
			if !s.use(t, "its passport, monitored", token.Token) {
				t.Error("the call does not go through after that")
			}
		})
	}
}

// moves gives the reasons of the moves of an approval to a state that are on record.
func (s *site) moves(t *testing.T, id, state string) (reasons []string) {
	t.Helper()
	list, err := s.trail.Read(0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range list {
		e, _, err := evidence.DecodeRecord(entry.Record)
		if err != nil {
			t.Fatal(err)
		}
		if e != nil && e.Kind == evidence.KindApproval && e.Approval.ID == id && e.Approval.State == state {
			reasons = append(reasons, e.Approval.Reason)
		}
	}
	return reasons
}

// question opens the approval of what use uses.
func (s *site) question(t *testing.T, how string) string {
	t.Helper()
	if how == "the call's own retry" || how == "its passport" {
		_, held := s.Check(t.Context(), s.refund("25000"))
		return held.Approval
	}
	act := refundOf(25000)
	act.AgentID = "support_agent"
	d, _, err := s.Preflight(t.Context(), admin, act)
	if err != nil || d.ApprovalRequestID == "" {
		t.Fatalf("%+v, %v", d, err)
	}
	return d.ApprovalRequestID
}
