package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/notify"
	"github.com/actpass/sidecar/store/pgtest"
)

// TestPostgresMigrates: of several that find a new database, one makes the schema;
// a newer schema is worked on unless it says that it must not be; a role that may
// not migrate is told so, and may do everything else.
func TestPostgresMigrates(t *testing.T) {
	pg := postgres(t)
	dsn := pg.Database(t)
	name := dsn[strings.LastIndex(dsn, "/")+1 : strings.Index(dsn, "?")]
	app := strings.Replace(dsn, "postgres:"+pgtest.Password, name+"_app:app", 1)
	pg.Exec(t, name, fmt.Sprintf(`CREATE ROLE %[1]s_app LOGIN PASSWORD 'app';
		REVOKE ALL ON SCHEMA public FROM PUBLIC; GRANT USAGE ON SCHEMA public TO %[1]s_app;
		ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO %[1]s_app;
		ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE ON SEQUENCES TO %[1]s_app;`, name))
	ctx := context.Background()
	if s, err := OpenPostgres(ctx, app, PostgresOptions{}); err == nil || errors.Is(err, ErrAway) || !strings.Contains(err.Error(), "ACTPASS_STORE_DSN") {
		if err == nil {
			s.Close()
		}
		t.Errorf("a role that may not migrate: %v", err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			s, err := OpenPostgres(ctx, dsn, PostgresOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			s.Close()
		})
	}
	wg.Wait()
	s := openPostgres(t, app, PostgresOptions{})
	if _, _, err := s.OpenApproval(ctx, pendingApproval("apr_1", "f"), gate.Room{Tenant: 9, Agent: 9}); err != nil {
		t.Error(err)
	}
	if _, err := s.Vote(ctx, "acme", "apr_1", gate.Vote{KeyID: "k", Decision: "approve", Time: start}, nil); err != nil {
		t.Error(err)
	}
	if err := s.forget(ctx, start); err != nil {
		t.Error(err)
	}
	pg.Exec(t, name, fmt.Sprintf(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (%d, true)`, postgresSchema+1))
	openPostgres(t, app, PostgresOptions{}).Close()
	pg.Exec(t, name, fmt.Sprintf(`UPDATE schema_floor SET oldest = %d`, postgresSchema+1))
	if s, err := OpenPostgres(ctx, app, PostgresOptions{}); err == nil || !strings.Contains(err.Error(), "start the newer program") {
		if err == nil {
			s.Close()
		}
		t.Errorf("a schema that is too new: %v", err)
	}
}

func TestPostgresHidesTheDSN(t *testing.T) {
	for _, dsn := range []string{"postgres://u:hunter2@[bad", "host=x password='hunter2", "postgres://u:hunter2@127.0.0.1:1/x?sslmode=hunter2"} {
		s, err := OpenPostgres(context.Background(), dsn, PostgresOptions{})
		if err == nil {
			s.Close()
		}
		if err == nil || strings.Contains(fmt.Sprintf("%+v", err), "hunter2") {
			t.Errorf("%v", err)
		}
	}
}

// TestPostgresShares: what one sidecar took to record or to send is not given to
// another meanwhile, and what it took of limits is its own to mend.
func TestPostgresShares(t *testing.T) {
	dsn := postgres(t).Database(t)
	a, b := openPostgres(t, dsn, PostgresOptions{Owner: "a"}), openPostgres(t, dsn, PostgresOptions{Owner: "b"})
	ctx := context.Background()
	if err := a.SetChannels(ctx, "acme", []notify.Subscription{{Name: "hook", Events: []string{"opened", "decided"}}}, start); err != nil {
		t.Fatal(err)
	}
	if err := b.SetChannels(ctx, "other", nil, start); err != nil { // another tenant's are not its to remove
		t.Fatal(err)
	}
	moves, stop := context.WithCancel(ctx)
	defer stop()
	moved := b.Moves(moves)
	<-moved // it listens
	if _, _, err := a.OpenApproval(ctx, pendingApproval("apr_1", "f"), gate.Room{Tenant: 9, Agent: 9}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := a.Vote(ctx, "acme", "apr_1", gate.Vote{KeyID: "k", Decision: "approve", Time: start}, nil); err != nil {
		t.Fatal(err)
	}
	select {
	case <-moved:
		t.Logf("told after %s", time.Since(began))
	case <-time.After(2 * time.Second):
		t.Error("a move was not told of")
	}
	for i, want := range []int{1, 1} { // again to the same one: it may have failed
		if list, err := a.Unrecorded(ctx, 9); err != nil || len(list) != want {
			t.Errorf("round %d: %v, %v", i, list, err)
		}
		if list, err := b.Unrecorded(ctx, 9); err != nil || len(list) != 0 {
			t.Errorf("given to two: %v, %v", list, err)
		}
	}
	due, err := b.Due(ctx, "hook", time.Now(), 9)
	if err != nil || len(due) != 2 || due[0].Event != "opened" || due[1].Event != "decided" {
		t.Errorf("%+v, %v", due, err)
	}
	if again, err := a.Due(ctx, "hook", time.Now(), 9); err != nil || len(again) != 0 {
		t.Errorf("given to two: %v, %v", again, err)
	}
	if err := b.Settle(ctx, due[0].ID, notify.Result{State: notify.Delivered, Status: 200}, start); err != nil {
		t.Error(err)
	}
	if _, _, err := a.Reserve(ctx, "acme", "ev_1", []gate.Use{{Limit: "l", Key: "k\x00\xff", Amount: 7, Max: 10, Window: time.Hour}}, start); err != nil {
		t.Fatal(err)
	}
	if list, err := b.Reservations(ctx, 9); err != nil || len(list) != 0 {
		t.Errorf("another's reservations: %v, %v", list, err)
	}
	if list, err := a.Reservations(ctx, 9); err != nil || len(list) != 1 || list[0].Limit != "l" {
		t.Errorf("its own reservations: %v, %v", list, err)
	}
	if over, used, err := b.Reserve(ctx, "acme", "ev_2", []gate.Use{{Limit: "l", Key: "k\x00\xff", Amount: 7, Max: 10, Window: time.Hour}}, start); err != nil || over != 0 || used[0] != 7 {
		t.Errorf("over %d, used %v, %v", over, used, err)
	}
	if err := b.forget(ctx, start.Add(3*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if list, err := a.Reservations(ctx, 9); err != nil || len(list) != 0 {
		t.Errorf("not forgotten: %v, %v", list, err)
	}
}

// TestPostgresSums: reservations of several keys, releases and resets at once, from
// three sidecars: in the end each sum is that of its uses, and nothing deadlocks.
func TestPostgresSums(t *testing.T) {
	dsn := postgres(t).Database(t)
	var stores [3]*Postgres
	for i := range stores {
		stores[i] = openPostgres(t, dsn, PostgresOptions{Owner: fmt.Sprint(i), Conns: 4})
	}
	ctx := context.Background()
	use := func(k int) gate.Use {
		return gate.Use{Limit: fmt.Sprint("l", k%2), Key: fmt.Sprint(k), Amount: 1, Max: 40, Window: time.Hour}
	}
	var wg sync.WaitGroup
	for w := range 9 {
		wg.Go(func() {
			s := stores[w%3]
			for i := range 25 {
				id := fmt.Sprintf("ev_%d_%d", w, i)
				uses := []gate.Use{use(rand.IntN(3)), use(3 + rand.IntN(3))}
				if rand.IntN(2) == 0 {
					uses[0], uses[1] = uses[1], uses[0]
				}
				if _, _, err := s.Reserve(ctx, "acme", id, uses, start.Add(time.Duration(i)*time.Millisecond)); err != nil {
					t.Error(err)
				}
				if rand.IntN(2) == 0 {
					if err := stores[rand.IntN(3)].Release(ctx, "acme", id); err != nil {
						t.Error(err)
					}
				}
				if rand.IntN(20) == 0 {
					if _, err := s.ResetLimit(ctx, "acme", gate.Use{Limit: "l1", Window: time.Hour}, start.Add(time.Second)); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	seen := 0
	err := stores[0].each(ctx, `SELECT s.limit_key, s.total, coalesce((SELECT sum(u.amount) FROM limit_uses u
		WHERE u.tenant_id = s.tenant_id AND u.limit_key = s.limit_key AND u.at > s.since), 0) FROM limit_sums s`, nil, func(row scanner) error {
		var key string
		var total, sum int64
		err := row.Scan(&key, &total, &sum)
		if total != sum || total > 40 {
			t.Errorf("%s: the sum is %d, that of the uses %d", key, total, sum)
		}
		seen++
		return err
	})
	if err != nil || seen == 0 {
		t.Error(seen, err)
	}
}

// TestPostgresClock: the time is the server's.
func TestPostgresClock(t *testing.T) {
	s := openPostgres(t, postgres(t).Database(t), PostgresOptions{})
	before := time.Now()
	now, err := s.Clock(context.Background())
	if err != nil || now.Before(before.Add(-time.Second)) || now.After(time.Now().Add(time.Second)) {
		t.Errorf("%s between %s and %s, %v", now, before, time.Now(), err)
	}
}
