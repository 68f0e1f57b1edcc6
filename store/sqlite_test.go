package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/actpass/sidecar/gate"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func pendingApproval(id, fingerprint string) gate.Approval {
	return gate.Approval{
		ID: id, TenantID: "acme", Fingerprint: fingerprint, Tool: "stripe.refund.create", Approvers: []string{"leads"},
		Required: 1, CreatedAt: start, ExpiresAt: start.Add(time.Hour), UseWithin: 15 * time.Minute,
	}
}

// TestRestart: what was acknowledged before a close is there after it.
func TestRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "actpass.db")
	ctx := context.Background()
	s := openTest(t, path)
	if err := s.CreateKey(ctx, gate.Key{ID: "key_1", TenantID: "acme", Role: gate.RoleAdmin, CreatedAt: start}, [32]byte{1}); err != nil {
		t.Fatal(err)
	}
	if err := s.TouchKey(ctx, "key_1", start); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.OpenApproval(ctx, pendingApproval("apr_1", "f"), roomFor(9)); err != nil {
		t.Fatal(err)
	}
	want, err := s.Vote(ctx, "acme", "apr_1", gate.Vote{KeyID: "key_1", Decision: "approve", Time: start}, nil)
	if err != nil {
		t.Fatal(err)
	}
	uses := []gate.Use{{Limit: "l", Key: "k", Amount: 7, Max: 10, Window: time.Hour}}
	if over, _, err := s.Reserve(ctx, "acme", "ev_1", uses, start); over != -1 || err != nil {
		t.Fatal(over, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Ping(ctx); err == nil {
		t.Error("a closed store answers a ping")
	}

	s = openTest(t, path)
	k, err := s.KeyByHash(ctx, [32]byte{1})
	if err != nil || !k.LastUsedAt.Equal(start) {
		t.Errorf("key after a restart: %+v, %v", k, err)
	}
	got, err := s.GetApproval(ctx, "acme", "apr_1")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("approval after a restart (-want +got):\n%s", d)
	}
	if list, err := s.Unrecorded(ctx, 9); err != nil || len(list) != 1 {
		t.Errorf("outbox after a restart: %v, %v", list, err)
	}
	if over, used, err := s.Reserve(ctx, "acme", "ev_2", uses, start); over != 0 || err != nil || used[0] != 7 {
		t.Errorf("limit after a restart: over %d, used %v, %v", over, used, err)
	}
}

func TestFileModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	path := filepath.Join(dir, "with space & ?#%.db")
	s := openTest(t, path)
	if err := s.Ping(context.Background()); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for name, want := range map[string]os.FileMode{dir: 0o700, path: 0o600, path + "-wal": 0o600, path + "-shm": 0o600} {
		st, err := os.Stat(name)
		if err != nil {
			t.Error(err)
			continue
		}
		seen++
		if st.Mode().Perm() != want {
			t.Errorf("%s has mode %o", name, st.Mode().Perm())
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != seen-1 {
		t.Errorf("%v, %v", entries, err)
	}
	s.Close()
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	openTest(t, path)
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("an open file was not closed to others: %v, %v", st, err)
	}
}

// TestPragmas: what durability stands on is really set.
func TestPragmas(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "x.db"))
	got := map[string]string{}
	err := s.w.do(context.Background(), func(b *batch) error {
		for _, name := range []string{"journal_mode", "synchronous", "foreign_keys", "busy_timeout"} {
			var v string
			if err := b.row("PRAGMA "+name, nil, &v); err != nil {
				return err
			}
			got[name] = v
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "busy_timeout": "5000"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("pragmas (-want +got):\n%s", d)
	}
	if _, err := s.read.Exec("DELETE FROM keys"); err == nil {
		t.Error("a reading connection can write")
	}
}

func TestSchemaVersions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	s := openTest(t, path)
	if _, err := s.write.Conn(canceled()); err == nil {
		t.Error("the writing connection is shared")
	}
	s.Close()
	db, err := openSQL(path, 1, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var migrated, version int64
	err = db.QueryRow(`SELECT (SELECT max(version_id) FROM goose_db_version), (SELECT user_version FROM pragma_user_version)`).Scan(&migrated, &version)
	if err != nil || migrated != sqliteSchema || version != sqliteSchema {
		t.Errorf("migrated to %d, user_version %d, sqliteSchema %d, %v", migrated, version, sqliteSchema, err)
	}
	if _, err := db.Exec(fmt.Sprintf("PRAGMA user_version = %d", sqliteSchema+1)); err != nil {
		t.Fatal(err)
	}
	db.Close()
	if _, err = OpenSQLite(path, Options{}); err == nil || !strings.Contains(err.Error(), "start the newer program") {
		t.Errorf("a newer schema: %v", err)
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("not a database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err = OpenSQLite(path, Options{}); err == nil {
		t.Error("opened something that is no database")
	}
}

// TestPendingCountsOfAnOldDatabase: what was pending before the counts were kept is
// counted.
func TestPendingCountsOfAnOldDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	s := openTest(t, path)
	for i, agent := range []string{"a", "a", "b", "b"} {
		q := pendingApproval(fmt.Sprint("apr_", i), fmt.Sprint(i))
		q.AgentID = agent
		if _, _, err := s.OpenApproval(t.Context(), q, roomFor(9)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Vote(t.Context(), "acme", "apr_3", gate.Vote{KeyID: "k", Decision: gate.DenyIt, Time: start}, nil); err != nil {
		t.Fatal(err)
	}
	s.Close()
	db, err := openSQL(path, 1, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(`DROP TABLE issued_passports; ALTER TABLE passports DROP COLUMN used_at; DROP TABLE pending_counts; DROP INDEX grants_by_end; DROP INDEX deliveries_unfinished; DROP INDEX transitions_by_approval; DROP INDEX approvals_closed;
		ALTER TABLE approvals DROP COLUMN rest_at; ALTER TABLE approvals DROP COLUMN closed_at;
		DELETE FROM goose_db_version WHERE version_id >= 9; PRAGMA user_version = 8`); err != nil {
		t.Fatal(err)
	}
	db.Close()
	s = openTest(t, path)
	checkCounts(t, s)
	if _, _, err := s.OpenApproval(t.Context(), pendingApproval("apr_9", "9"), roomFor(3)); !errors.Is(err, gate.ErrTooMany) {
		t.Errorf("three are pending: %v", err)
	}
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// TestTwoProcesses: a command line may open and write the database of a running
// sidecar, also when both find it new.
func TestTwoProcesses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	var stores [4]*SQLite
	var wg sync.WaitGroup
	for i := range stores {
		wg.Go(func() {
			s, err := OpenSQLite(path, Options{})
			if err != nil {
				t.Error(err)
				return
			}
			stores[i] = s
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	var fit atomic.Int32
	for i, s := range stores {
		defer s.Close()
		for j := range 10 {
			wg.Go(func() {
				over, _, err := s.Reserve(context.Background(), "acme", fmt.Sprintf("ev_%d_%d", i, j),
					[]gate.Use{{Limit: "l", Amount: 1, Max: 15, Window: time.Hour}}, start)
				if err != nil {
					t.Error(err)
				}
				if over == -1 {
					fit.Add(1)
				}
			})
		}
	}
	wg.Wait()
	if fit.Load() != 15 {
		t.Errorf("%d fit into 15", fit.Load())
	}
}

// TestBlocked: the time of commits is counted.
func TestBlocked(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "x.db"))
	before := s.Blocked()
	err := s.w.do(context.Background(), func(b *batch) error {
		return b.run(`INSERT INTO limit_sums (tenant_id, limit_key, span, since, total) VALUES ('t', 'k', 1, 1, 1)`)
	})
	if err != nil || s.Blocked() <= before {
		t.Errorf("%v before a commit, %v after it, %v", before, s.Blocked(), err)
	}
}

// TestWriterBatch: one transaction carries many, and the failure of one takes no
// other along.
func TestWriterBatch(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "x.db"))
	// Hold the writer while the others collect.
	held, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = s.w.do(context.Background(), func(*batch) error { close(held); <-release; return nil })
	})
	<-held
	const n = 50
	boom := errors.New("boom")
	errs := make([]error, n)
	batches := make([]*batch, n)
	for i := range n {
		wg.Go(func() {
			errs[i] = s.w.do(context.Background(), func(b *batch) error {
				batches[i] = b
				if err := b.run(`INSERT INTO limit_sums (tenant_id, limit_key, span, since, total) VALUES ('t', ?, 1, 1, 1)`, fmt.Sprint(i)); err != nil {
					return err
				}
				if i%2 == 1 {
					return boom
				}
				return nil
			})
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	gaveUp := make(chan error)
	go func() {
		gaveUp <- s.w.do(ctx, func(*batch) error { t.Error("ran though its caller was gone"); return nil })
	}()
	for len(s.w.queue) < n+1 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-gaveUp; !errors.Is(err, context.Canceled) {
		t.Errorf("gave up: %v", err)
	}
	close(release)
	wg.Wait()
	for i := range n {
		if batches[i] != batches[0] {
			t.Errorf("operation %d had a transaction of its own", i)
		}
		if i%2 == 1 && !errors.Is(errs[i], boom) || i%2 == 0 && errs[i] != nil {
			t.Errorf("operation %d: %v", i, errs[i])
		}
	}
	var rows int
	if err := s.read.QueryRow(`SELECT count(*) FROM limit_sums`).Scan(&rows); err != nil || rows != n/2 {
		t.Errorf("%d rows, %v", rows, err)
	}
}

// TestCommitFails: when the transaction cannot be committed, nobody in it is told
// that it was, and the next one works.
func TestCommitFails(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "x.db"))
	ctx := context.Background()
	err := s.w.do(ctx, func(b *batch) error {
		// A foreign key that is checked at COMMIT.
		if err := b.run("PRAGMA defer_foreign_keys = 1"); err != nil {
			return err
		}
		return b.run(`INSERT INTO transitions (approval_id, tenant_id, from_state, to_state, actor, reason, at) VALUES ('none', '', '', '', '', '', 0)`)
	})
	if err == nil {
		t.Error("a failed commit was reported as done")
	}
	if err := s.Ping(ctx); err != nil {
		t.Errorf("after a failed commit: %v", err)
	}
	if list, err := s.Unrecorded(ctx, 9); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}

// TestDiskFull: the database may not grow any more; writes fail and nothing of
// them stays, until there is room again.
func TestDiskFull(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "x.db"))
	ctx := context.Background()
	limit := func(pages int) {
		t.Helper()
		if err := s.w.do(ctx, func(b *batch) error {
			var n int
			return b.row(fmt.Sprintf("PRAGMA max_page_count = %d", pages), nil, &n)
		}); err != nil {
			t.Fatal(err)
		}
	}
	limit(1)
	stored, failed := 0, 0
	for i := range 40 {
		a := pendingApproval(fmt.Sprintf("apr_%d", i), fmt.Sprint(i))
		a.Summary = strings.Repeat("x", 2000)
		if _, _, err := s.OpenApproval(ctx, a, roomFor(1000)); err != nil {
			failed++
		} else {
			stored++
		}
	}
	if failed == 0 {
		t.Fatal("a full disk was not noticed")
	}
	list, _, err := s.Approvals(ctx, gate.ApprovalQuery{TenantID: "acme", Limit: 1000})
	if err != nil || len(list) != stored {
		t.Errorf("%d stored, %d acknowledged, %v", len(list), stored, err)
	}
	limit(1 << 20)
	if _, _, err := s.OpenApproval(ctx, pendingApproval("apr_later", "later"), roomFor(1000)); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// TestSweep: uses and sums that no window reaches are forgotten, and no others.
func TestSweep(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "x.db"))
	ctx := context.Background()
	count := func(table string) (n int) {
		t.Helper()
		if err := s.read.QueryRow(`SELECT count(*) FROM ` + table).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	now := start
	const n = 8 * sweepEvery
	for i := range n {
		now = now.Add(time.Minute)
		over, _, err := s.Reserve(ctx, "acme", fmt.Sprintf("ev_%d", i), []gate.Use{
			{Limit: "minute", Key: fmt.Sprint(i), Amount: 1, Max: 10, Window: 6 * time.Minute},
			{Limit: "quarter", Amount: 1, Max: 1000, Window: 90 * time.Minute},
		}, now)
		if err != nil || over != -1 {
			t.Fatal(over, err)
		}
	}
	used, err := s.Usage(ctx, "acme", []gate.Use{
		{Limit: "quarter", Window: 90 * time.Minute},
		{Limit: "minute", Key: fmt.Sprint(n - 6), Window: 6 * time.Minute},
		{Limit: "minute", Key: fmt.Sprint(n - 7), Window: 6 * time.Minute},
	}, now)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]int64{90, 1, 0}, used); d != "" {
		t.Errorf("usage (-want +got):\n%s", d)
	}
	if got := count("limit_uses"); got < 90+60 || got > 2*(90+60+2*sweepEvery) {
		t.Errorf("%d uses are kept", got)
	}
	if got := count("limit_sums"); got > 6+60+3*sweepEvery {
		t.Errorf("%d sums are kept", got)
	}
}

// TestSweepSparesALongWindow: a limit with a longer window than all before comes
// while a round of sweeping is under way.
func TestSweepSparesALongWindow(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "x.db"))
	ctx := context.Background()
	reserve := func(event, limit string, window time.Duration, now time.Time) {
		t.Helper()
		uses := []gate.Use{{Limit: limit, Amount: 1, Max: 1000, Window: window}}
		if over, _, err := s.Reserve(ctx, "acme", event, uses, now); err != nil || over != -1 {
			t.Fatal(over, err)
		}
	}
	reserve("ev_0", "minute", time.Minute, start)
	s.sweep.span, s.sweep.tenant, s.sweep.key = time.Minute.Microseconds(), "a", ""
	reserve("ev_long", "day", 24*time.Hour, start)
	for i := range 2 * sweepEvery {
		reserve(fmt.Sprintf("ev_%d", i+1), "minute", time.Minute, start.Add(time.Duration(i)*time.Second+time.Hour))
	}
	// The sum would not show a use that was deleted: count the uses.
	var kept int
	if err := s.read.QueryRow(`SELECT count(*) FROM limit_uses WHERE event_id = 'ev_long'`).Scan(&kept); err != nil || kept != 1 {
		t.Errorf("%d uses of the long window are left, %v", kept, err)
	}
}

// TestKill: a process is killed while it writes. Everything that it had been told
// is durable is there.
func TestKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	acked := map[string]bool{}
	for round := range 3 {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), "STORE_TEST_CHILD="+path, fmt.Sprintf("STORE_TEST_ROUND=%d", round))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		n := 0
		for lines.Scan() {
			if id, ok := strings.CutSuffix(lines.Text(), "."); ok {
				acked[id] = true
			}
			if n++; n == 150*(round+1) {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // it was killed
	}
	if len(acked) < 300 {
		t.Fatalf("only %d writes were acknowledged", len(acked))
	}
	s := openTest(t, path)
	ctx := context.Background()
	var check string
	if err := s.read.QueryRow("PRAGMA integrity_check").Scan(&check); err != nil || check != "ok" {
		t.Errorf("integrity: %s, %v", check, err)
	}
	for id := range acked {
		a, err := s.GetApproval(ctx, "acme", id)
		if err != nil {
			t.Fatalf("acknowledged and lost: %v", err)
		}
		if a.State != gate.ApprovalConsumed {
			t.Fatalf("%s was consumed and is %s", id, a.State)
		}
	}
	// Each move has its transition, whatever the moment of the kill.
	var moves, transitions int
	err := s.read.QueryRow(`SELECT (SELECT count(*) FROM transitions), (SELECT coalesce(sum(CASE state WHEN 'pending' THEN 0 WHEN 'approved' THEN 1 ELSE 2 END), 0) FROM approvals)`).Scan(&transitions, &moves)
	if err != nil || moves != transitions {
		t.Errorf("%d transitions for %d moves, %v", transitions, moves, err)
	}
}

// childMain is the process that TestKill kills: it opens, approves and consumes,
// and prints each id once it is durable.
func childMain() bool {
	path := os.Getenv("STORE_TEST_CHILD")
	if path == "" {
		return false
	}
	s, err := OpenSQLite(path, Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("apr_%s_%d_%d", os.Getenv("STORE_TEST_ROUND"), w, i)
				ctx := context.Background()
				_, _, err := s.OpenApproval(ctx, pendingApproval(id, id), roomFor(1<<30))
				if err == nil {
					_, err = s.Vote(ctx, "acme", id, gate.Vote{KeyID: "k", Decision: "approve", Time: start}, nil)
				}
				if err == nil {
					_, err = s.Consume(ctx, "acme", id, "ev_"+id, start)
				}
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				mu.Lock()
				// The full stop shows that the line is whole.
				fmt.Println(id + ".")
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return true
}

// TestOpenIsQuick guards the start of the sidecar with room to spare: about 20 ms
// for a new database and 3 ms for an old one were measured.
func TestOpenIsQuick(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	for _, c := range []struct {
		name string
		most time.Duration
	}{{"new", 600 * time.Millisecond}, {"old", 150 * time.Millisecond}} {
		began := time.Now()
		s, err := OpenSQLite(path, Options{})
		took := time.Since(began)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %s", c.name, took)
		if took > c.most {
			t.Errorf("opening a %s database took %s", c.name, took)
		}
		s.Close()
	}
}

// TestShareIsFoundByItsEvent: what one event took of a limit is found among any
// number of uses in the window without reading them: ten thousand held calls that
// share a day's limit would cost each other ten thousand rows a step.
func TestShareIsFoundByItsEvent(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "x.db"))
	for query, args := range map[string][]any{
		shareQuery:   {"acme", "ev_1", "k", 0},
		releaseQuery: {"acme", "ev_1"},
	} {
		var plan []string
		err := s.each(t.Context(), `EXPLAIN QUERY PLAN `+query, args, func(row scanner) error {
			var id, parent, unused int
			var step string
			err := row.Scan(&id, &parent, &unused, &step)
			plan = append(plan, step)
			return err
		})
		text := strings.Join(plan, "\n")
		if err != nil || !strings.Contains(text, "limit_uses_by_event") || strings.Contains(text, "limit_uses_by_key") {
			t.Errorf("%s\n%s, %v", query, text, err)
		}
	}
}
