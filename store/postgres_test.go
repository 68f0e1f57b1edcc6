package store

import (
	"context"
	"os"
	"sync"
	"testing"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/store/pgtest"
	"github.com/actpass/sidecar/store/storetest"
)

var cluster struct {
	sync.Once
	*pgtest.Cluster
	remove func()
	err    error
}

// postgres is one cluster for all tests of the package; TestMain removes it.
func postgres(t testing.TB) *pgtest.Cluster {
	t.Helper()
	cluster.Do(func() {
		flags := []string{"-c fsync=off"} // the machine does not fail, only the server
		if os.Getenv(statementsEnv) != "" {
			flags = append(flags, "-c log_statement=all")
		}
		cluster.Cluster, cluster.remove, cluster.err = pgtest.New(flags...)
	})
	if cluster.err != nil {
		if os.Getenv("ACTPASS_E2E_REQUIRE") != "" {
			t.Fatal(cluster.err)
		}
		t.Skip(cluster.err)
	}
	return cluster.Cluster
}

func openPostgres(t testing.TB, dsn string, opt PostgresOptions) *Postgres {
	t.Helper()
	s, err := OpenPostgres(context.Background(), dsn, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestConformancePostgres(t *testing.T) {
	storetest.Run(t, func(t *testing.T) gate.Store {
		return openPostgres(t, postgres(t).Database(t), PostgresOptions{})
	}, ErrMisuse)
}
