package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/actpass/sidecar/gate"
)

// TestReaderPrepares: a query is prepared once, however many ask at once, and what
// writes values into its text does not fill the memory.
func TestReaderPrepares(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "x.db"))
	r := s.engine.(sqliteEngine).read
	before := r.count.Load()
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			var got int
			if err := s.row(t.Context(), `SELECT ? + 1`, i).Scan(&got); err != nil || got != i+1 {
				t.Errorf("%d: %d %v", i, got, err)
			}
		})
	}
	all.Wait()
	if n := r.count.Load() - before; n != 1 {
		t.Errorf("%d statements of one query", n)
	}
	for i := range 2 * maxPrepared {
		var got []int
		err := s.each(t.Context(), fmt.Sprintf(`SELECT %d UNION SELECT ?`, i), []any{-1}, func(row scanner) error {
			var n int
			err := row.Scan(&n)
			got = append(got, n)
			return err
		})
		if err != nil || len(got) != 2 || got[1] != i {
			t.Fatalf("%d: %v %v", i, got, err)
		}
	}
	if n := r.count.Load(); n > maxPrepared {
		t.Errorf("%d statements are kept", n)
	}
	if err := s.row(t.Context(), `SELECT 1 WHERE 1 = ?`, 2).Scan(new(int)); !errors.Is(err, sql.ErrNoRows) {
		t.Errorf("no row: %v", err)
	}
	if err := s.row(t.Context(), `SELECT nonsense`).Scan(new(int)); err == nil {
		t.Error("nonsense was prepared")
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.row(over, `SELECT 7`).Scan(new(int)); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that is gone: %v", err)
	}
}

// BenchmarkGetApproval is a look at one approval, of which each that is decided
// takes several.
func BenchmarkGetApproval(b *testing.B) {
	s := openTest(b, filepath.Join(b.TempDir(), "x.db"))
	a := gate.Approval{
		ID: "apr_1", TenantID: "acme", Fingerprint: "f", AgentID: "support", CreatedAt: start, ExpiresAt: start.Add(1 << 40),
		Tool: "stripe.refund.create", Args: map[string]any{"amount": 25000, "charge": "ch_1"}, Required: 1, UseWithin: 1 << 40, Approvers: []string{"leads"},
	}
	if _, _, err := s.OpenApproval(context.Background(), a, gate.Room{Tenant: 1, Agent: 1}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.GetApproval(context.Background(), "acme", "apr_1"); err != nil {
			b.Fatal(err)
		}
	}
}
