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
}

// liveStudy is one study, and how far it has read.
type liveStudy struct {
	study *whatif.ReadinessStudy
	rules *gate.Rules
	mode  string
	owner string // tenant
	from  time.Time
	span  time.Duration // the longest that was asked for
	next  uint64
	idle  *time.Timer
}

// ask answers from the study that fits, made if there is none. read and size are the
// log's.
func (l *studies) ask(ctx context.Context, rules *gate.Rules, q api.ReadinessQuery, read readLog, size uint64) (whatif.Readiness, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	since := q.Since.Truncate(time.Hour)
	s := l.find(rules, q, since)
	for {
		old := s != nil
		if !old {
			var err error
			if s, err = newLiveStudy(rules, q, since, read, size); err != nil {
				return whatif.Readiness{}, err
			}
			l.keep(s)
		}
		s.rules, s.span = rules, max(s.span, q.Now.Sub(since))
		s.idle.Reset(studyIdle)
		var err error
		if s.next, err = replayFrom(ctx, read, s.next, size, s.study); err == nil {
			break
		}
		if ctx.Err() != nil {
			return whatif.Readiness{}, &api.Behind{Read: s.next, Size: size, Err: err}
		}
		l.drop(s) // it cannot be gone on with
		if !old || !errors.Is(err, ledger.ErrRemoved) {
			return whatif.Readiness{}, err
		}
		s = nil // retention took what was next
	}
	s.study.Forget(q.Now.Add(-s.span))
	return s.study.ReportOf(whatif.ReadinessOptions{
		Rules: rules, Mode: q.Mode, Tenant: q.Tenant, Since: since, Now: q.Now, Tool: q.Tool, Agent: q.Agent,
		MinDays: q.MinDays, MaxHolds: q.MaxHolds, Limit: q.Limit, Skip: q.Skip,
	}), nil
}

// find gives the study whose verdicts are those that are asked for, and that began
// early enough.
func (l *studies) find(rules *gate.Rules, q api.ReadinessQuery, since time.Time) *liveStudy {
	for i, s := range l.list {
		if s.mode != q.Mode || s.owner != q.Tenant {
			continue
		}
		l.list = slices.Delete(l.list, i, i+1)
		if s.from.After(since) || !rules.JudgesLike(s.rules, q.Mode, q.Tenant) {
			s.idle.Stop()
			return nil
		}
		l.list = append(l.list, s)
		return s
	}
	return nil
}

func newLiveStudy(rules *gate.Rules, q api.ReadinessQuery, since time.Time, read readLog, size uint64) (*liveStudy, error) {
	study, err := whatif.NewReadiness(whatif.ReadinessOptions{Rules: rules, Mode: q.Mode, Tenant: q.Tenant, Since: since})
	if err != nil {
		return nil, err
	}
	s := &liveStudy{study: study, mode: q.Mode, owner: q.Tenant, from: since}
	s.next, err = seek(read, size, study.From())
	return s, err
}

// keep puts s among the studies, in the place of the one that was asked longest ago
// where there are too many.
func (l *studies) keep(s *liveStudy) {
	if len(l.list) == maxStudies {
		l.drop(l.list[0])
	}
	s.idle = time.AfterFunc(studyIdle, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.drop(s)
	})
	l.list = append(l.list, s)
}

func (l *studies) drop(s *liveStudy) {
	if i := slices.Index(l.list, s); i >= 0 {
		s.idle.Stop()
		l.list = slices.Delete(l.list, i, i+1)
	}
}
