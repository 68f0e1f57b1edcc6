package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/actpass/sidecar/gate"
)

// maxResponse is how much is read of an answer, in bytes.
const maxResponse = 64 << 10

// webhook sends events to one URL.
type webhook struct {
	Webhook
	n *Notifier
}

func (w *webhook) name() string     { return w.Name }
func (w *webhook) events() []string { return w.Events }
func (w *webhook) parallel() int    { return 8 }

func (w *webhook) send(ctx context.Context, d Delivery, a gate.Approval) sent {
	body := d.Body
	if body == nil {
		var err error
		if body, err = w.n.message(d, a); err != nil {
			return sent{err: fmt.Errorf("render: %w", err)}
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(body))
	if err != nil {
		return sent{body: body, err: withoutURL(err)}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "actpass")
	req.Header.Set(HeaderDelivery, d.ID)
	req.Header.Set(HeaderEvent, d.Event)
	req.Header.Set(HeaderSignature, Sign(w.Secret, w.n.Now(), body))
	resp, err := w.n.Client.Do(req)
	if err != nil {
		return sent{body: body, err: withoutURL(err)}
	}
	defer resp.Body.Close()
	// Read so that the connection can be used again; what it says does not matter.
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxResponse))
	out := sent{status: resp.StatusCode, body: body, retryAfter: retryAfter(resp.Header)}
	switch {
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		out.err = fmt.Errorf("the receiver answered %d, and redirects are not followed", resp.StatusCode)
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		out.err = fmt.Errorf("the receiver answered %d", resp.StatusCode)
	}
	return out
}

// withoutURL takes the address out of an error: webhook addresses often hold a
// token.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// retryAfter is what the receiver asks for, at most an hour; 0 for nothing.
func retryAfter(h http.Header) time.Duration {
	n, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || n <= 0 {
		return 0
	}
	return min(time.Duration(n)*time.Second, time.Hour)
}
