package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/notify"
)

// pruneEngines are both databases. gate.Store knows nothing of deliveries, so this
// is not part of its conformance.
func pruneEngines(t *testing.T, f func(t *testing.T, s *tables)) {
	t.Run("sqlite", func(t *testing.T) { f(t, openTest(t, filepath.Join(t.TempDir(), "x.db")).tables) })
	t.Run("postgres", func(t *testing.T) {
		f(t, openPostgres(t, postgres(t).Database(t), PostgresOptions{Owner: "a"}).tables)
	})
}

// closedAndRecorded opens and cancels, and has both on record.
func closedAndRecorded(t *testing.T, s *tables, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if _, _, err := s.OpenApproval(t.Context(), pendingApproval(id, id), roomFor(1000)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Cancel(t.Context(), "acme", id, gate.Vote{KeyID: "k", Time: start}); err != nil {
			t.Fatal(err)
		}
	}
	for {
		list, err := s.Unrecorded(t.Context(), 1000)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 {
			return
		}
		for _, m := range list {
			if err := s.MarkRecorded(t.Context(), m.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func (s *tables) count(t *testing.T, query string, args ...any) (n int) {
	t.Helper()
	if err := s.row(context.Background(), query, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestPruneSparesDeliveries: an approval of which something is still to be told, or
// can be sent again by hand, stays until that is over.
func TestPruneSparesDeliveries(t *testing.T) {
	pruneEngines(t, func(t *testing.T, s *tables) {
		ctx := t.Context()
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(s.SetChannels(ctx, "acme", []notify.Subscription{{Name: "hook", Events: []string{"cancelled"}}}, start))
		closedAndRecorded(t, s, "apr_queued", "apr_dead", "apr_told")
		due, err := s.Due(ctx, "hook", start, 10)
		must(err)
		for _, d := range due {
			switch d.ApprovalID {
			case "apr_dead":
				must(s.Settle(ctx, d.ID, notify.Result{State: notify.Dead}, start))
			case "apr_told":
				must(s.Settle(ctx, d.ID, notify.Result{State: notify.Delivered, Status: 200}, start))
			}
		}
		must(s.KeepReceipt(ctx, "hook", "apr_told", "ts", start))
		later := start.Add(40 * 24 * time.Hour)
		n, err := s.Prune(ctx, start.Add(time.Hour), later)
		if err != nil || n != (gate.Pruned{Approvals: 1, Moves: 1}) {
			t.Fatalf("%+v, %v", n, err)
		}
		for id, want := range map[string]bool{"apr_queued": true, "apr_dead": true, "apr_told": false} {
			if _, err := s.GetApproval(ctx, "acme", id); (err == nil) != want {
				t.Errorf("%s: %v", id, err)
			}
		}
		if n, err := s.Prune(ctx, start.Add(time.Hour), later); err != nil || !n.None() {
			t.Errorf("again: %+v, %v", n, err)
		}
		// What Forget takes frees its approval.
		must(s.Forget(ctx, start.Add(time.Hour), start.Add(time.Hour), later))
		if n := s.count(t, `SELECT count(*) FROM deliveries`) + s.count(t, `SELECT count(*) FROM receipts`); n != 1 {
			t.Errorf("%d rows are left of deliveries and receipts, want the queued one", n)
		}
		if n, err := s.Prune(ctx, start.Add(time.Hour), later); err != nil || n.Approvals != 1 {
			t.Errorf("after its dead letter: %+v, %v", n, err)
		}
	})
}

// TestForgetByPages: however many deliveries are old, all go.
func TestForgetByPages(t *testing.T) {
	pruneEngines(t, func(t *testing.T, s *tables) {
		err := s.transact(t.Context(), nil, func(b *batch) error {
			for i := range 600 {
				err := b.run(`INSERT INTO deliveries (id, channel, tenant_id, approval_id, event, from_state, to_state, actor, reason, at, state, settled_at)
					VALUES (?, 'hook', 'acme', 'apr_1', 'opened', '', '', '', '', 1, ?, 1)`, fmt.Sprint("dlv_", i), []string{"delivered", "dead", "queued"}[i%3])
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Forget(t.Context(), start, start, start); err != nil {
			t.Fatal(err)
		}
		if n := s.count(t, `SELECT count(*) FROM deliveries`); n != 200 || s.count(t, `SELECT count(*) FROM deliveries WHERE state = 'queued'`) != 200 {
			t.Errorf("%d left", n)
		}
	})
}

// TestPruneOfOlderPrograms: approvals that a program closed which did not write when
// are found out from their moves.
func TestPruneOfOlderPrograms(t *testing.T) {
	pruneEngines(t, func(t *testing.T, s *tables) {
		var ids []string
		for i := range 70 {
			ids = append(ids, fmt.Sprint("apr_", i))
		}
		closedAndRecorded(t, s, ids...)
		err := s.transact(t.Context(), nil, func(b *batch) error {
			return errors.Join(b.run(`UPDATE approvals SET closed_at = 0, rest_at = 0`),
				b.run(`UPDATE transitions SET at = ? WHERE approval_id = 'apr_7'`, micros(start.Add(20*24*time.Hour))))
		})
		if err != nil {
			t.Fatal(err)
		}
		total := 0
		for {
			n, err := s.Prune(t.Context(), start.Add(time.Hour), start.Add(time.Hour))
			if err != nil {
				t.Fatal(err)
			}
			if n.None() {
				break
			}
			total += n.Approvals
		}
		a, err := s.GetApproval(t.Context(), "acme", "apr_7")
		if total != 69 || err != nil || !a.ClosedAt.Equal(start.Add(20*24*time.Hour)) {
			t.Errorf("%d removed; the later one was closed at %s, %v", total, a.ClosedAt, err)
		}
	})
}

// TestPruneOfALargeGrant: a transaction takes a part of its uses, and the grant goes
// with the last.
func TestPruneOfALargeGrant(t *testing.T) {
	pruneEngines(t, func(t *testing.T, s *tables) {
		const uses = 1200
		err := s.CreateGrant(t.Context(), gate.Grant{
			ID: "grt_1", TenantID: "acme", AgentID: "a", Tool: "t", Resource: "r", RuleHash: "h", Count: uses, KeyID: "k", CreatedAt: start, ExpiresAt: start.Add(time.Hour),
		}, 10)
		if err != nil {
			t.Fatal(err)
		}
		err = s.transact(t.Context(), nil, func(b *batch) error {
			for i := range uses {
				if err := b.run(`INSERT INTO grant_uses (grant_id, event_id, amount, at) VALUES ('grt_1', ?, 0, 1)`, fmt.Sprint("ev_", i)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		var pages []gate.Pruned
		for {
			n, err := s.Prune(t.Context(), start.Add(2*time.Hour), start.Add(2*time.Hour))
			if err != nil {
				t.Fatal(err)
			}
			if n.None() {
				break
			}
			pages = append(pages, n)
		}
		if len(pages) != 3 || pages[0] != (gate.Pruned{Uses: 500}) || pages[2] != (gate.Pruned{Grants: 1, Uses: 200}) {
			t.Errorf("%+v", pages)
		}
	})
}

// TestPruneLooksByIndex: looking for what is over, of which there is mostly nothing,
// reads no table from end to end.
func TestPruneLooksByIndex(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "x.db"))
	for _, query := range []string{
		`SELECT id FROM approvals a WHERE ` + closedRows + ` AND closed_at > 0 AND closed_at < 9 AND rest_at < 9
			AND NOT EXISTS (SELECT 1 FROM transitions t WHERE t.approval_id = a.id AND t.recorded = 0)
			AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.approval_id = a.id AND d.state IN ('queued', 'dead'))
			AND NOT EXISTS (SELECT 1 FROM answers k WHERE k.tenant_id = a.tenant_id AND k.approval_id >= a.id AND k.approval_id < a.id || '0' AND k.expires_at > 9)
			ORDER BY closed_at, rest_at LIMIT 64`,
		`SELECT id FROM approvals WHERE ` + closedRows + ` AND closed_at = 0 ORDER BY closed_at LIMIT 64`,
		`SELECT id FROM grants WHERE expires_at < 9 ORDER BY expires_at LIMIT 64`,
		`DELETE FROM transitions WHERE approval_id = 'x'`,
		`DELETE FROM answers WHERE (tenant_id, approval_id) IN (SELECT tenant_id, approval_id FROM answers WHERE expires_at <= 9 LIMIT 256)`,
	} {
		var plan []string
		err := s.each(t.Context(), `EXPLAIN QUERY PLAN `+query, nil, func(row scanner) error {
			var id, parent, unused int
			var step string
			err := row.Scan(&id, &parent, &unused, &step)
			plan = append(plan, step)
			return err
		})
		text := strings.Join(plan, "\n")
		if err != nil || strings.Contains(text, "SCAN") && !strings.Contains(text, "SCAN a USING INDEX approvals_closed") || strings.Contains(text, "TEMP B-TREE FOR ORDER") {
			t.Errorf("%s\n%s, %v", query, text, err)
		}
	}
}
