package web

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/whatif"
)

// To judge a long record again takes ten seconds and more. A review goes on while
// nobody waits for it, and its page asks for it again, as it does for readiness.
const (
	judgeWait  = 2 * time.Second  // before the page says that it is not done
	judgeLong  = 70 * time.Second // the API's own bound, and a little more
	judgeKept  = 30 * time.Second // that a result waits for its page
	maxJudging = 8                // at a time, of all visitors
)

// judgings are the reviews under way, by who asked and for what.
type judgings struct {
	mu sync.Mutex
	m  map[string]*judging
}

type judging struct {
	Began  time.Time
	done   chan struct{} // closed when the rest is there
	report whatif.ReviewReport
	err    error
}

// Seconds since it began, at now.
func (j *judging) Seconds(now time.Time) int { return int(now.Sub(j.Began) / time.Second) }

// judge asks for a review, or for the one that was asked for already. It gives the
// report, once; or, where it takes longer than a page waits, the judging that goes on.
func (d *Dashboard) judge(r *http.Request, v *visit, ask api.NewReview) (*whatif.ReviewReport, *judging, error) {
	key := v.who.TenantID + "\n" + v.who.KeyID + "\n" + r.URL.RawQuery
	j, err := d.judgings.begin(key, d.Now(), func(j *judging) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), judgeLong)
		defer cancel()
		go func() {
			select {
			case <-d.closed:
				cancel()
			case <-ctx.Done():
			}
		}()
		j.report, j.err = v.api.Review(ctx, ask)
	})
	if err != nil {
		return nil, nil, err
	}
	wait := time.NewTimer(judgeWait)
	defer wait.Stop()
	select {
	case <-j.done:
		d.judgings.end(key, j)
		return &j.report, nil, j.err
	case <-wait.C:
		return nil, j, nil
	case <-r.Context().Done():
		return nil, nil, r.Context().Err()
	}
}

func (l *judgings) begin(key string, now time.Time, do func(*judging)) (*judging, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if j := l.m[key]; j != nil {
		return j, nil
	}
	if len(l.m) >= maxJudging {
		return nil, &api.Error{Status: http.StatusServiceUnavailable, Code: "too_many", Message: "Too many reviews are under way; ask again in a moment."}
	}
	if l.m == nil {
		l.m = make(map[string]*judging)
	}
	j := &judging{Began: now, done: make(chan struct{})}
	l.m[key] = j
	go func() {
		do(j)
		close(j.done)
		time.AfterFunc(judgeKept, func() { l.end(key, j) })
	}()
	return j, nil
}

// end forgets j: whoever asks next has the record judged anew.
func (l *judgings) end(key string, j *judging) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.m[key] == j {
		delete(l.m, key)
	}
}
