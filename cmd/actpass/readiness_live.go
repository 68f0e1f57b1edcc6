package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/ledger"
	"github.com/actpass/sidecar/whatif"
)

const (
	// maxStudies bounds what readiness keeps: enforce and strict, of two tenants.
	maxStudies = 4
	// studyIdle is how long one is kept that nobody asks.
	studyIdle = 15 * time.Minute
)

// studies are the readiness of a running sidecar. To judge a million actions again
// takes ten seconds and more; so what was judged is kept, counted by the hour, and
// each question reads what came since the last. Another policy judges otherwise and
// begins anew.
type studies struct {
	mu   sync.Mutex
	list []*liveStudy // the one that was asked last is the last
	// turn is held for each piece of the record that is read: however many are asked,
	// they take one core together.
	turn sync.Mutex
}

// liveStudy is one study, and how far it has read. It goes on reading while nobody
// waits: a question that gave up is asked again.
type liveStudy struct {
	mode  string
	owner string // tenant
	from  time.Time
	first uint64 // record
	idle  *time.Timer

	book  sync.Mutex // of study: held while a piece is read, and after turn
	study *whatif.ReadinessStudy

	mu      sync.Mutex // of the rest; never held for long
	rules   *gate.Rules
	span    time.Duration // the longest that was asked for
	next    uint64
	want    uint64 // where it is to stop
	reading bool   // somebody is at it
	gone    bool   // it is not to be gone on with
	err     error
	moved   chan struct{} // closed when next or err is another
}

// ask answers from the study that fits, made if there is none. read and size are the
// log's. Where ctx ends first, the error is an *api.Behind, and the reading goes on.
func (l *studies) ask(ctx context.Context, rules *gate.Rules, q api.ReadinessQuery, read readLog, size uint64) (whatif.Readiness, error) {
	since := q.Since.Truncate(time.Hour)
	for {
		s, old, err := l.take(rules, q, since, read, size)
		if err == nil {
			s.readOn(&l.turn, read, size)
			err = s.wait(ctx, size)
		}
		if err == nil {
			return s.answer(rules, q, since), nil
		}
		if behind := (*api.Behind)(nil); s == nil || errors.As(err, &behind) {
			return whatif.Readiness{}, err
		}
		l.drop(s) // it cannot be gone on with
		if !old || !errors.Is(err, ledger.ErrRemoved) {
			return whatif.Readiness{}, err
		}
		// Retention took what was next: from the beginning.
	}
}

// take finds or makes the study of a question.
func (l *studies) take(rules *gate.Rules, q api.ReadinessQuery, since time.Time, read readLog, size uint64) (s *liveStudy, old bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s = l.find(rules, q, since); s != nil {
		s.idle.Reset(studyIdle)
		return s, true, nil
	}
	if s, err = newLiveStudy(rules, q, since, read, size); err != nil {
		return nil, false, err
	}
	l.keep(s)
	return s, false, nil
}

// readOn sees that somebody reads up to size.
func (s *liveStudy) readOn(turn *sync.Mutex, read readLog, size uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.want = max(s.want, size)
	if !s.reading && s.err == nil && s.next < s.want {
		s.reading = true
		go func() {
			for s.readPiece(turn, read) {
			}
		}()
	}
}

// piece is how many records are read at a time, some 50 ms.
const piece = 4096

// readPiece reads a piece of what is wanted, and says whether there is more.
func (s *liveStudy) readPiece(turn *sync.Mutex, read readLog) bool {
	turn.Lock()
	defer turn.Unlock()
	s.mu.Lock()
	from, to := s.next, min(s.want, s.next+piece)
	if s.gone {
		to = from
	}
	s.mu.Unlock()
	next, err := from, error(nil)
	if from < to {
		s.book.Lock()
		next, err = replayFrom(context.Background(), read, from, to, s.study)
		s.book.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next, s.err = next, err
	s.reading = err == nil && !s.gone && next > from && next < s.want
	s.tell()
	return s.reading
}

// tell wakes who waits. s.mu is held.
func (s *liveStudy) tell() {
	close(s.moved)
	s.moved = make(chan struct{})
}

// wait returns when the record is read up to size, or as far as there is any, or
// cannot be.
func (s *liveStudy) wait(ctx context.Context, size uint64) error {
	for {
		s.mu.Lock()
		next, err, moved, reading, gone := s.next, s.err, s.moved, s.reading, s.gone
		s.mu.Unlock()
		behind := &api.Behind{Read: next - s.first, Size: max(size, next) - s.first, Err: context.Canceled}
		switch {
		case err != nil:
			return err
		case next >= size:
			return nil
		case gone:
			return behind // its place was taken, or the rules are others now
		case !reading:
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			behind.Err = ctx.Err()
			return behind
		}
	}
}

func (s *liveStudy) answer(rules *gate.Rules, q api.ReadinessQuery, since time.Time) whatif.Readiness {
	s.mu.Lock()
	s.rules, s.span = rules, max(s.span, q.Now.Sub(since))
	longest := s.span
	s.mu.Unlock()
	s.book.Lock()
	defer s.book.Unlock()
	s.study.Forget(q.Now.Add(-longest))
	return s.study.ReportOf(whatif.ReadinessOptions{
		Rules: rules, Mode: q.Mode, Tenant: q.Tenant, Since: since, Now: q.Now, Tool: q.Tool, Agent: q.Agent,
		MinDays: q.MinDays, MaxHolds: q.MaxHolds, Limit: q.Limit, Skip: q.Skip,
	})
}

// find gives the study whose verdicts are those that are asked for, and that began
// early enough.
func (l *studies) find(rules *gate.Rules, q api.ReadinessQuery, since time.Time) *liveStudy {
	for i, s := range l.list {
		if s.mode != q.Mode || s.owner != q.Tenant {
			continue
		}
		s.mu.Lock()
		fits := !s.from.After(since) && rules.JudgesLike(s.rules, q.Mode, q.Tenant)
		s.mu.Unlock()
		if !fits {
			l.end(i)
			return nil
		}
		l.list = append(slices.Delete(l.list, i, i+1), s)
		return s
	}
	return nil
}

func newLiveStudy(rules *gate.Rules, q api.ReadinessQuery, since time.Time, read readLog, size uint64) (*liveStudy, error) {
	study, err := whatif.NewReadiness(whatif.ReadinessOptions{Rules: rules, Mode: q.Mode, Tenant: q.Tenant, Since: since})
	if err != nil {
		return nil, err
	}
	s := &liveStudy{study: study, rules: rules, mode: q.Mode, owner: q.Tenant, from: since, moved: make(chan struct{})}
	s.first, err = seek(read, size, study.From())
	s.next = s.first
	return s, err
}

// keep puts s among the studies, in the place of the one that was asked longest ago
// where there are too many.
func (l *studies) keep(s *liveStudy) {
	if len(l.list) == maxStudies {
		l.end(0)
	}
	s.idle = time.AfterFunc(studyIdle, func() { l.drop(s) })
	l.list = append(l.list, s)
}

func (l *studies) drop(s *liveStudy) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.list, s); i >= 0 {
		l.end(i)
	}
}

// end takes a study off the list, and whoever reads for it stops.
func (l *studies) end(i int) {
	s := l.list[i]
	l.list = slices.Delete(l.list, i, i+1)
	s.idle.Stop()
	s.mu.Lock()
	s.gone = true
	s.tell()
	s.mu.Unlock()
}
