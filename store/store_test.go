package store

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/store/storetest"
)

func TestMain(m *testing.M) {
	if childMain() {
		return
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if cluster.remove != nil {
			if err := writeStatements(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = 1
			}
			cluster.remove()
		}
		os.Exit(code)
	}))
}

func TestConformance(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) gate.Store {
			path := filepath.Join(t.TempDir(), "data", "actpass.db")
			t.Cleanup(func() { checkCounts(t, openTest(t, path)) }) // when the suite has closed its own
			return openTest(t, path)
		}, ErrMisuse)
	})
	t.Run("memory", func(t *testing.T) {
		storetest.Run(t, func(*testing.T) gate.Store {
			m := NewMemory()
			m.OnMisuse = func(error) {}
			return m
		}, ErrMisuse)
	})
}

// roomFor is for n approvals, of one agent or of many.
func roomFor(n int) gate.Room { return gate.Room{Tenant: n, Agent: n} }

// checkCounts compares the kept counts with what there is to count.
func checkCounts(t testing.TB, s *SQLite) {
	t.Helper()
	var wrong int
	err := s.read.QueryRow(`WITH true (tenant_id, scope, name, pending) AS (
			SELECT tenant_id, 'tenant', '', count(*) FROM approvals WHERE state = 'pending' GROUP BY tenant_id
			UNION ALL SELECT tenant_id, 'agent', agent_id, count(*) FROM approvals WHERE state = 'pending' GROUP BY tenant_id, agent_id)
		SELECT (SELECT count(*) FROM (SELECT * FROM true EXCEPT SELECT * FROM pending_counts))
			+ (SELECT count(*) FROM (SELECT * FROM pending_counts WHERE scope = 'agent' OR pending > 0 EXCEPT SELECT * FROM true))`).Scan(&wrong)
	if err != nil || wrong != 0 {
		t.Errorf("%d counts of pending approvals are wrong, %v", wrong, err)
	}
}

func openTest(t testing.TB, path string) *SQLite {
	t.Helper()
	s, err := OpenSQLite(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}
