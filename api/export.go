package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/gate"
)

const (
	maxExports = 2
	// exportStall is how long a reader may take nothing before it is let go, and
	// exportTime how long one export may take at all.
	exportStall = 30 * time.Second
	exportTime  = time.Hour
)

// ExportQuery selects the records of a bundle, by the time of each.
type ExportQuery struct {
	Tenant string
	// Log is the origin of the log, as an event's log.origin names it; "" is the one
	// log of a sidecar. A control, which shows several, wants it.
	Log   string
	Since time.Time // inclusive; zero: no bound
	Until time.Time // exclusive; zero: no bound
}

// exportLog streams a bundle. What fails before the first byte is an error like
// any other; after it the connection is cut, so that a part cannot pass for the
// whole.
func (s *server) exportLog(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	q, err := readQuery(r, "since", "until", "log")
	if err != nil {
		return err
	}
	eq := ExportQuery{Tenant: id.TenantID, Log: q["log"]}
	if eq.Since, eq.Until, err = q.between(); err != nil {
		return err
	}
	select {
	case s.exports <- struct{}{}:
		defer func() { <-s.exports }()
	default:
		return &Error{Status: http.StatusTooManyRequests, Code: "too_many_requests", Message: fmt.Sprintf("%d exports are under way; wait until one is done", maxExports), RetryAfter: 10 * time.Second}
	}
	h := w.Header()
	h.Set("Content-Type", "application/x-ndjson")
	h.Set("Content-Disposition", `attachment; filename="actpass-evidence.jsonl"`)
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), exportTime)
	defer cancel()
	body := &patientWriter{w: w, control: http.NewResponseController(w)}
	if err := s.Events.Export(ctx, body, eq); err != nil {
		if body.begun {
			s.Logger.Warn("an export broke off", zap.String("request_id", note(r).requestID), zap.Error(err))
			panic(http.ErrAbortHandler)
		}
		h.Del("Content-Disposition")
		return about("event", evidenceDown, err)
	}
	return nil
}

// patientWriter moves the write deadline of the server along while its reader
// takes what it is given.
type patientWriter struct {
	w       io.Writer
	control *http.ResponseController
	begun   bool
}

func (p *patientWriter) Write(b []byte) (int, error) {
	p.begun = true
	if err := p.control.SetWriteDeadline(time.Now().Add(exportStall)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	return p.w.Write(b)
}

// Export writes a bundle of the tenant's evidence to w; q.Tenant is not sent: the
// key has one. On an error w may hold a part of a bundle.
func (c *Client) Export(ctx context.Context, w io.Writer, q ExportQuery) error {
	v := url.Values{}
	if !q.Since.IsZero() {
		v.Set("since", q.Since.UTC().Format(time.RFC3339Nano))
	}
	if !q.Until.IsZero() {
		v.Set("until", q.Until.UTC().Format(time.RFC3339Nano))
	}
	if q.Log != "" {
		v.Set("log", q.Log)
	}
	const path = "/api/v1/evidence/export"
	resp, err := c.do(ctx, http.MethodGet, path, v, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, err := readAnswer(resp)
		if err != nil {
			return fmt.Errorf("read the answer of GET %s: %w", path, err)
		}
		return answerError(resp.StatusCode, b, resp.Header)
	}
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("read the bundle, which is not whole: %w", err)
	}
	return nil
}
