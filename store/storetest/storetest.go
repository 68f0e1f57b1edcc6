// Package storetest holds every gate.Store to the same promises.
package storetest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// Run tests the stores that open gives. Each call of open gives an empty store,
// which answers misuse with an error that misuse knows (store.ErrMisuse) and
// does not panic; Run closes it.
func Run(t *testing.T, open func(t *testing.T) gate.Store, misuse error) {
	t.Helper()
	for _, part := range []struct {
		name string
		test func(t *testing.T, s *suite)
	}{
		{"keys", testKeys},
		{"key pages", testKeyPages},
		{"open", testOpen},
		{"open concurrently", testOpenConcurrently},
		{"open, as seen", testOpenSeen},
		{"vote", testVote},
		{"vote concurrently", testVoteConcurrently},
		{"escalate", testEscalate},
		{"cancel", testCancel},
		{"consume", testConsume},
		{"consume concurrently", testConsumeConcurrently},
		{"every illegal move", testIllegalMoves},
		{"expire", testExpire},
		{"list approvals", testListApprovals},
		{"outbox", testOutbox},
		{"expire by pages", testExpirePages},
		{"moved", testMoved},
		{"reserve", testReserve},
		{"reserve concurrently", testReserveConcurrently},
		{"reserve the rest", testReserveRest},
		{"swept while at rest", testSweptRest},
		{"window", testWindow},
		{"clock set back", testClockSetBack},
		{"calendar window", testCalendarWindow},
		{"release", testRelease},
		{"force", testForce},
		{"held and reset", testHeld},
		{"passports", testPassports},
		{"list passports", testListPassports},
		{"answers", testAnswers},
		{"grants", testGrants},
		{"grant lists", testGrantLists},
		{"grants concurrently", testGrantsConcurrently},
		{"model of grants", testGrantModel},
		{"modes", testModes},
		{"prune", testPrune},
		{"prune by pages", testPrunePages},
		{"prune grants", testPruneGrants},
		{"misuse", testMisuse},
		{"context", testContext},
		{"model", testModel},
		{"model of limits", testLimitModel},
	} {
		t.Run(part.name, func(t *testing.T) {
			s := &suite{Store: open(t), open: open, misuse: misuse, ctx: context.Background()}
			defer func() {
				if err := s.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			}()
			part.test(t, s)
		})
	}
}

type suite struct {
	gate.Store
	open   func(t *testing.T) gate.Store
	misuse error
	ctx    context.Context
	seq    int
	soon   bool // the last reservation was by ReserveSoon
}

// noon is when the tests begin.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)

func at(d time.Duration) time.Time { return noon.Add(d) }

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func (s *suite) id(prefix string) string {
	s.seq++
	return fmt.Sprintf("%s_%04d", prefix, s.seq)
}

// question is an approval with every field filled.
func (s *suite) question(fingerprint string) gate.Approval {
	return gate.Approval{
		ID: s.id("apr"), TenantID: "acme", AgentID: "support_agent", KeyID: "key_agent", UserID: "user_456", Goal: "resolve",
		Fingerprint: fingerprint, EventID: "ev_1", Tool: "stripe.refund.create", Resource: "stripe:charge:ch_1", Risk: "high",
		Args: map[string]any{
			"amount": int64(9007199254740993), "ratio": 0.5, "currency": "usd", "flag": true, "none": nil,
			"metadata": map[string]any{"n": int64(-1)}, "list": []any{int64(1), "a"},
		},
		Request:    &evidence.Request{Method: "POST", Authority: "api.stripe.com", Path: "/v1/refunds", ContentType: "application/x-www-form-urlencoded", BodySHA256: "ab", Bytes: 12},
		ReasonCode: "refund.medium", Summary: "a sentence", Policy: "refund_policy", Rule: "medium", RuleHash: "beef",
		Approvers: []string{"support-leads"}, Required: 1,
		CreatedAt: noon, ExpiresAt: at(time.Hour), UseWithin: 15 * time.Minute,
	}
}

// room is for n approvals, of one agent or of many.
func room(n int) gate.Room { return gate.Room{Tenant: n, Agent: n} }

// opens opens a and fails the test when it is not new.
func (s *suite) opens(t *testing.T, a gate.Approval) gate.Approval {
	t.Helper()
	got, isNew, err := s.OpenApproval(s.ctx, a, room(100))
	if err != nil || !isNew {
		t.Fatalf("open %s: new %v, error %v", a.ID, isNew, err)
	}
	return got
}

func approve(key string, when time.Time, groups ...string) gate.Vote {
	return gate.Vote{KeyID: key, Name: "name of " + key, Groups: groups, Decision: "approve", Reason: "fine", Time: when}
}

// approved opens and approves.
func (s *suite) approved(t *testing.T, fingerprint string) gate.Approval {
	t.Helper()
	a := s.opens(t, s.question(fingerprint))
	a, err := s.Vote(s.ctx, a.TenantID, a.ID, approve("key_lead", at(time.Minute)), nil)
	if err != nil || a.State != gate.ApprovalApproved {
		t.Fatalf("approve: %s, %v", a.State, err)
	}
	return a
}

// parallel runs f n times at once.
func parallel(n int, f func(i int)) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			f(i)
		})
	}
	close(start)
	wg.Wait()
}

func hashOf(secret string) [32]byte { return sha256.Sum256([]byte(secret)) }
