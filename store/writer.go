package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// errClosed answers writes after Close.
var errClosed = errors.New("the store is closed")

// maxBatch bounds a transaction, so that nobody waits long for the others in it.
const maxBatch = 256

// writer owns the one connection that writes. While one transaction is being
// synced the next writes collect, and then share one transaction and one fsync:
// nobody waits on purpose, and 64 writers do not pay 64 fsyncs.
//
// If the process dies before COMMIT, nothing of the batch is in the database and
// nobody was told otherwise; after it, everything is, whether told or not.
type writer struct {
	conn  *sql.Conn
	stmts map[string]*sql.Stmt

	blocked atomic.Int64 // ns in COMMIT so far

	queue chan *writeOp
	mu    sync.RWMutex // held for reading while sending to queue
	done  bool
	ended chan struct{}
}

// writeOp is one caller's write.
type writeOp struct {
	fn     func(*batch) error
	state  atomic.Int32 // opWaiting, then one of the others
	ran    chan error   // what fn gave, before it is on disk; nil where nobody asks
	result chan error
}

const (
	opWaiting = iota
	opRunning
	opGivenUp
)

func startWriter(ctx context.Context, db *sql.DB) (*writer, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	w := &writer{
		conn: conn, stmts: map[string]*sql.Stmt{},
		queue: make(chan *writeOp, maxBatch), ended: make(chan struct{}),
	}
	go w.run()
	return w, nil
}

// do runs fn in a transaction and returns when it is on disk, or with fn's
// error, of which nothing is kept. When ctx ends before fn began, fn never runs;
// once it has begun, do waits for the end, so that an error of ctx always means
// that nothing was written.
//
// fn runs alone, never at the same time as another. It may run, and its result
// then be lost with the whole transaction: it must not change anything that the
// caller sees unless do returned nil.
func (w *writer) do(ctx context.Context, fn func(*batch) error) error {
	if err := ctx.Err(); err != nil {
		return err // select would toss a coin between the queue and the end
	}
	op := &writeOp{fn: fn, result: make(chan error, 1)}
	if err := w.send(ctx, op); err != nil {
		return err
	}
	select {
	case err := <-op.result:
		return err
	case <-ctx.Done():
		if op.state.CompareAndSwap(opWaiting, opGivenUp) {
			return ctx.Err()
		}
		return <-op.result
	}
}

// soon is do that returns when fn has run: nil, and settled, which waits until it
// is on disk, or fn's error. What fn found out holds once settled returns nil.
func (w *writer) soon(ctx context.Context, fn func(*batch) error) (settled func() error, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	op := &writeOp{fn: fn, ran: make(chan error, 1), result: make(chan error, 1)}
	if err := w.send(ctx, op); err != nil {
		return nil, err
	}
	var done <-chan struct{} = ctx.Done()
	for {
		select {
		case err := <-op.ran:
			return sync.OnceValue(func() error { return <-op.result }), err
		case err := <-op.result: // it did not come so far, or is over already
			return func() error { return err }, err
		case <-done:
			if op.state.CompareAndSwap(opWaiting, opGivenUp) {
				return nil, ctx.Err()
			}
			done = nil
		}
	}
}

func (w *writer) send(ctx context.Context, op *writeOp) error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.done {
		return errClosed
	}
	select {
	case w.queue <- op:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stop lets what is queued finish and gives the connection back.
func (w *writer) stop() error {
	w.mu.Lock()
	if !w.done {
		w.done = true
		close(w.queue)
	}
	w.mu.Unlock()
	<-w.ended
	for _, st := range w.stmts {
		st.Close()
	}
	return w.conn.Close()
}

func (w *writer) run() {
	defer close(w.ended)
	ops := make([]*writeOp, 0, maxBatch)
	for op := range w.queue {
		ops = append(ops[:0], op)
	collect:
		for len(ops) < maxBatch {
			select {
			case op, ok := <-w.queue:
				if !ok {
					break collect
				}
				ops = append(ops, op)
			default:
				break collect
			}
		}
		w.transaction(ops)
	}
}

// transaction runs ops in one transaction, each in its own savepoint.
func (w *writer) transaction(ops []*writeOp) {
	live := ops[:0]
	for _, op := range ops {
		if op.state.CompareAndSwap(opWaiting, opRunning) {
			live = append(live, op)
		}
	}
	if len(live) == 0 {
		return
	}
	b := &batch{ctx: context.Background(), on: w}
	if err := b.run("BEGIN IMMEDIATE"); err != nil {
		for _, op := range live {
			op.result <- fmt.Errorf("begin a write: %w", err)
		}
		return
	}
	errs := make([]error, len(live))
	var broken error // the transaction itself cannot go on
	for i, op := range live {
		if broken != nil {
			break
		}
		errs[i], broken = b.attempt(op.fn, len(live) == 1)
		if op.ran != nil && broken == nil {
			op.ran <- errs[i]
			// Whoever waits goes on here and now, while another thread is woken for the
			// COMMIT: the other way round they would wait for that thread.
			runtime.Gosched()
		}
	}
	alone := len(live) == 1 && errs[0] != nil
	if broken == nil && !alone {
		began := time.Now()
		if err := b.run("COMMIT"); err != nil {
			broken = fmt.Errorf("commit: %w", err)
		}
		w.blocked.Add(int64(time.Since(began)))
	}
	if broken != nil || alone {
		// What failed may have ended the transaction already (disk full, I/O error);
		// then there is nothing to roll back and the answer does not matter.
		_ = b.run("ROLLBACK")
	}
	for i, op := range live {
		if errs[i] == nil {
			errs[i] = broken
		}
		op.result <- errs[i]
	}
}

// attempt runs fn so that its failure takes nothing else along: where it is alone,
// the whole transaction is undone. broken is the failure of the one around it.
func (b *batch) attempt(fn func(*batch) error, alone bool) (err, broken error) {
	if alone {
		return fn(b), nil
	}
	if err := b.run("SAVEPOINT op"); err != nil {
		return err, err
	}
	if err = fn(b); err != nil {
		if rb := b.run("ROLLBACK TO op"); rb != nil {
			return err, fmt.Errorf("undo a failed write: %w", rb)
		}
	}
	if rl := b.run("RELEASE op"); rl != nil {
		return err, rl
	}
	return err, nil
}

// The writer is the conn of its batches. Its statements are prepared once for
// the life of the connection.

func (w *writer) stmt(ctx context.Context, query string) (*sql.Stmt, error) {
	if st := w.stmts[query]; st != nil {
		return st, nil
	}
	st, err := w.conn.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	w.stmts[query] = st
	return st, nil
}

func (w *writer) exec(ctx context.Context, query string, args []any) (sql.Result, error) {
	st, err := w.stmt(ctx, query)
	if err != nil {
		return nil, err
	}
	return st.ExecContext(ctx, args...)
}

func (w *writer) query(ctx context.Context, query string, args []any) (*sql.Rows, error) {
	st, err := w.stmt(ctx, query)
	if err != nil {
		return nil, err
	}
	return st.QueryContext(ctx, args...)
}

func (w *writer) one(ctx context.Context, query string, args []any) scanner {
	st, err := w.stmt(ctx, query)
	if err != nil {
		return noRow{err}
	}
	return st.QueryRowContext(ctx, args...)
}
