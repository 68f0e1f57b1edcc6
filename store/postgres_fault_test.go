package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/store/pgtest"
)

// toxic is a TCP proxy that can stall: it takes everything and passes nothing on.
type toxic struct {
	ln      net.Listener
	stalled atomic.Bool
	wg      sync.WaitGroup
	mu      sync.Mutex
	conns   []net.Conn
}

func newToxic(t *testing.T, to string) *toxic {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	x := &toxic{ln: ln}
	x.wg.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			x.mu.Lock()
			x.conns = append(x.conns, in, out)
			x.mu.Unlock()
			x.wg.Go(func() { x.pass(in, out) })
			x.wg.Go(func() { x.pass(out, in) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		x.cut()
		x.wg.Wait()
	})
	return x
}

func (x *toxic) pass(to, from net.Conn) {
	defer to.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if x.stalled.Load() { // what was taken is lost, as with a dead network
			_, _ = io.Copy(io.Discard, from)
			return
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (x *toxic) cut() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, c := range x.conns {
		c.Close()
	}
	x.conns = nil
}

// TestPostgresStalls: a database that says nothing any more holds no operation for
// longer than the time-outs, the ones after the first not at all, and is found
// again by itself.
func TestPostgresStalls(t *testing.T) {
	pg := postgres(t)
	x := newToxic(t, fmt.Sprintf("127.0.0.1:%d", pg.Port))
	dsn := strings.Replace(pg.Database(t), fmt.Sprint(pg.Port), fmt.Sprint(x.ln.Addr().(*net.TCPAddr).Port), 1)
	opt := PostgresOptions{Connect: 300 * time.Millisecond, Timeout: 500 * time.Millisecond, Wait: 20 * time.Second, Conns: 3}
	s := openPostgres(t, dsn, opt)
	ctx := context.Background()
	reserve := func(event, key string) error {
		_, _, err := s.Reserve(ctx, "acme", event, []gate.Use{{Limit: "l", Key: key, Amount: 1, Max: 100, Window: time.Hour}}, start)
		return err
	}
	if err := reserve("ev_0", "k"); err != nil {
		t.Fatal(err)
	}
	x.stalled.Store(true)
	began := time.Now()
	var wg sync.WaitGroup
	for i := range 40 { // many in line for one lock, and for three connections
		wg.Go(func() {
			if err := reserve(fmt.Sprintf("ev_1_%d", i), fmt.Sprint("k", i%4)); !errors.Is(err, ErrAway) {
				t.Errorf("with a stalled database: %v", err)
			}
		})
	}
	wg.Wait()
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("a stalled database held operations for %s", took)
	}
	began = time.Now()
	if _, err := s.KeyByHash(ctx, [32]byte{1}); !errors.Is(err, ErrAway) || errors.Is(err, gate.ErrNotFound) {
		t.Errorf("a read: %v", err)
	}
	if took := time.Since(began); took > 50*time.Millisecond {
		t.Errorf("a read of a database that is known to be away took %s", took)
	}
	x.stalled.Store(false)
	began = time.Now()
	for reserve("ev_2", "k") != nil {
		if time.Since(began) > 5*time.Second {
			t.Fatal("not found again within 5 s")
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Logf("found again after %s", time.Since(began))
}

// TestPostgresStops: the server is stopped as by a crash and started again, under
// load, three times. What was acknowledged stands, nothing fits twice, and each
// time it is found again within 5 s.
func TestPostgresStops(t *testing.T) {
	pg := postgres(t)
	dsn := pg.Database(t)
	stores := []*Postgres{openPostgres(t, dsn, PostgresOptions{Owner: "a"}), openPostgres(t, dsn, PostgresOptions{Owner: "b"})}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	acked := map[string]bool{}
	var slowest time.Duration
	var failed, consumed atomic.Int64
	for w := range 8 {
		s := stores[w%2]
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				id := fmt.Sprintf("%d_%d", w, i)
				began := time.Now()
				over, _, err := s.Reserve(context.Background(), "acme", "ev_"+id, []gate.Use{{Limit: "l", Amount: 1, Max: 1 << 40, Window: time.Hour}}, start)
				took := time.Since(began)
				mu.Lock()
				slowest = max(slowest, took)
				if err == nil && over == -1 {
					acked["ev_"+id] = true
				}
				mu.Unlock()
				if err != nil {
					failed.Add(1)
					if !errors.Is(err, ErrAway) {
						t.Errorf("reserve: %v", err)
					}
					time.Sleep(5 * time.Millisecond)
				}
			}
		})
	}
	// One approval after the other, which two try to consume at once.
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			id := fmt.Sprintf("apr_%d", i)
			bg := context.Background()
			if _, _, err := stores[0].OpenApproval(bg, pendingApproval(id, id), gate.Room{Tenant: 1 << 30, Agent: 1 << 30}); err != nil {
				time.Sleep(20 * time.Millisecond)
				continue
			}
			if _, err := stores[1].Vote(bg, "acme", id, gate.Vote{KeyID: "k", Decision: "approve", Time: start}, nil); err != nil {
				continue
			}
			var won atomic.Int64
			var both sync.WaitGroup
			for j, s := range stores {
				both.Go(func() {
					if _, err := s.Consume(bg, "acme", id, fmt.Sprintf("ev_%d", j), start); err == nil {
						won.Add(1)
					}
				})
			}
			both.Wait()
			consumed.Add(won.Load())
			if won.Load() > 1 {
				t.Errorf("approval %s was consumed %d times", id, won.Load())
			}
		}
	})
	for range 3 {
		time.Sleep(400 * time.Millisecond)
		if err := pg.Stop(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(700 * time.Millisecond)
		if err := pg.Restart(); err != nil {
			t.Fatal(err)
		}
		back := time.Now()
		for _, s := range stores {
			for s.Ping(ctx) != nil {
				if time.Since(back) > 5*time.Second {
					t.Fatal("not found again within 5 s")
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
		t.Logf("found again %s after it was up", time.Since(back))
	}
	cancel()
	wg.Wait()
	t.Logf("%d acknowledged, %d failed, %d consumed, the slowest took %s", len(acked), failed.Load(), consumed.Load(), slowest)
	if failed.Load() == 0 || len(acked) == 0 || consumed.Load() == 0 {
		t.Error("nothing was tested")
	}
	if slowest > 6*time.Second {
		t.Errorf("an operation took %s", slowest)
	}
	list := map[string]bool{}
	err := stores[0].each(context.Background(), `SELECT event_id FROM limit_uses`, nil, func(row scanner) error {
		var id string
		err := row.Scan(&id)
		list[id] = true
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for id := range acked {
		if !list[id] {
			t.Errorf("%s was acknowledged and is lost", id)
		}
	}
	used, err := stores[1].Usage(context.Background(), "acme", []gate.Use{{Limit: "l", Window: time.Hour}}, start)
	if err != nil || used[0] != int64(len(list)) {
		t.Errorf("the sum is %v for %d uses, %v", used, len(list), err)
	}
}

// TestPostgresStartsWithout: a sidecar starts while the database is away, and has
// its schema when it comes.
func TestPostgresStartsWithout(t *testing.T) {
	pg := postgres(t)
	dsn := pg.Database(t)
	if err := pg.Stop(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pg.Restart() }() // for other tests, should this one end early
	changes := make(chan error, 8)
	s := openPostgres(t, dsn, PostgresOptions{Changed: func(err error) { changes <- err }})
	if err := <-changes; !errors.Is(err, ErrAway) || strings.Contains(err.Error(), pgtest.Password) {
		t.Errorf("told %v", err)
	}
	if err := s.Ping(context.Background()); !errors.Is(err, ErrAway) {
		t.Errorf("ping: %v", err)
	}
	if err := pg.Restart(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-changes:
		if err != nil {
			t.Errorf("told %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("not found within 5 s")
	}
	if _, err := s.Unrecorded(context.Background(), 1); err != nil {
		t.Error(err)
	}
}
