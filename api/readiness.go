package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/whatif"
)

// ReadinessQuery asks whether tools and agents could be enforced.
type ReadinessQuery struct {
	Tenant      string
	Mode        string // enforce or strict
	Since, Now  time.Time
	Tool, Agent string
	MinDays     int // 0: whatif's own
	MaxHolds    int
	Limit       int           // of rows
	Skip        int           // rows before the first that is shown
	Wait        time.Duration // how long the record may be read; 0: MaxWait
}

// Behind is an error of EventSource.Readiness: the record could not be read to its
// end in the time. The reading goes on, or the next question goes on with it.
type Behind struct {
	Read, Size uint64 // records, of those that the question is about
	Err        error  // of the context that ended
}

func (b *Behind) Error() string {
	return fmt.Sprintf("%d of %d records are read: %v", b.Read, b.Size, b.Err)
}

func (b *Behind) Unwrap() error { return b.Err }

// ReadingCode is the code of the 503 for which it is enough to ask again.
const ReadingCode = "readiness.reading"

// maxReadinessDays bounds how far back readiness looks.
const maxReadinessDays = 366

func (s *server) readiness(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	q, err := s.readinessQuery(r, id.TenantID)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), cmp.Or(q.Wait, simulationTime))
	defer cancel()
	report, err := s.Events.Readiness(ctx, q)
	var behind *Behind
	if errors.As(err, &behind) && r.Context().Err() == nil {
		return &Error{
			Status: http.StatusServiceUnavailable, Code: ReadingCode, RetryAfter: time.Second, Progress: float64(behind.Read) / float64(max(behind.Size, 1)), cause: err,
			Message: fmt.Sprintf("the record is being read, and %d%% of it is; ask again, it goes on meanwhile", 100*behind.Read/max(behind.Size, 1)),
		}
	}
	if errors.Is(err, context.DeadlineExceeded) && r.Context().Err() == nil {
		return invalid("since", "there is more on record than can be judged in a minute: ask for less at a time, or run `actpass readiness` beside the data directory")
	}
	if err != nil {
		return about("event", evidenceDown, err)
	}
	return writeJSON(w, http.StatusOK, report)
}

func (s *server) readinessQuery(r *http.Request, tenant string) (ReadinessQuery, error) {
	out := ReadinessQuery{Tenant: tenant, Now: s.Now()}
	q, err := readQuery(r, "since", "mode", "tool", "agent_id", "min_days", "max_holds", "limit", "cursor", "wait")
	if err != nil {
		return out, err
	}
	if out.Mode, err = q.oneOf("mode", gate.ModeEnforce, gate.ModeStrict); err != nil {
		return out, err
	}
	out.Mode = cmp.Or(out.Mode, gate.ModeEnforce)
	if out.Since, err = q.ago("since", out.Now, SimulationSpan); err != nil {
		return out, err
	}
	if out.MinDays, err = q.number("min_days", maxReadinessDays); err != nil {
		return out, err
	}
	if out.MaxHolds, err = q.number("max_holds", 1_000_000); err != nil {
		return out, err
	}
	if out.Limit, err = q.limit(); err != nil {
		return out, err
	}
	if out.Skip, err = q.offset(); err != nil {
		return out, err
	}
	if out.Wait, err = q.wait(); err != nil {
		return out, err
	}
	out.Tool, out.Agent = q["tool"], q["agent_id"]
	return out, nil
}

// ago is a time before now, as When reads it.
func (q query) ago(name string, now time.Time, absent time.Duration) (time.Time, error) {
	if q[name] == "" {
		return now.Add(-absent), nil
	}
	t, err := When(q[name], now)
	if err != nil {
		return t, invalid(name, err.Error())
	}
	if !t.Before(now) || now.Sub(t) > maxReadinessDays*24*time.Hour {
		return t, invalid(name, fmt.Sprintf("must be in the past, and at most %d days ago", maxReadinessDays))
	}
	return t, nil
}

// number is 1 to most, 0 when absent.
func (q query) number(name string, most int) (int, error) {
	text, given := q[name]
	if !given {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		return 0, invalid(name, fmt.Sprintf("must be an integer from 1 to %d", most))
	}
	return n, nil
}

// Readiness asks whether tools and agents could be enforced. Tenant and Now are
// not asked: they are the key's and the sidecar's.
func (c *Client) Readiness(ctx context.Context, ask ReadinessQuery) (r whatif.Readiness, err error) {
	q := url.Values{}
	set(q, "mode", ask.Mode)
	set(q, "tool", ask.Tool)
	set(q, "agent_id", ask.Agent)
	if ask.Wait > 0 {
		q.Set("wait", ask.Wait.String())
	}
	if !ask.Since.IsZero() {
		q.Set("since", ask.Since.UTC().Format(time.RFC3339))
	}
	for name, n := range map[string]int{"min_days": ask.MinDays, "max_holds": ask.MaxHolds, "limit": ask.Limit, "cursor": ask.Skip} {
		if n > 0 {
			q.Set(name, strconv.Itoa(n))
		}
	}
	err = c.call(ctx, http.MethodGet, "/api/v1/readiness", q, nil, &r)
	return r, err
}
