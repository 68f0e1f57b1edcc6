package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/passport"
)

// maxAnswer bounds what a Client reads of one answer, in bytes.
const maxAnswer = 64 << 20

// ErrUnreachable says that no sidecar answered at the address: a connection
// could not be made.
var ErrUnreachable = errors.New("no sidecar answers")

// Client calls the API of one sidecar. Its errors are *Error where the sidecar
// answered, ErrUnreachable where nothing was listening, and others where the
// call broke off.
type Client struct {
	base string
	key  string
	http *http.Client
}

// NewClient makes a client for the API at baseURL (http://127.0.0.1:8090,
// without /api/v1), which sends key. hc nil is a client that goes there
// directly: the proxy variables of the environment often name the sidecar itself.
func NewClient(baseURL, key string, hc *http.Client) *Client {
	if hc == nil {
		hc = &http.Client{
			Transport: &http.Transport{
				Proxy:               nil,
				DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
				TLSHandshakeTimeout: 5 * time.Second,
				MaxIdleConns:        4,
				IdleConnTimeout:     30 * time.Second,
			},
			// The key goes to where it was meant for, and nowhere else.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return &Client{base: strings.TrimRight(baseURL, "/"), key: key, http: hc}
}

// String and GoString leave the key out of whatever a client is printed into.
func (c *Client) String() string { return "ActPass API at " + c.base }

func (c *Client) GoString() string { return c.String() }

// Action is the body of a preflight.
type Action struct {
	Tool           string         `json:"tool"`
	Resource       string         `json:"resource,omitempty"`
	Args           map[string]any `json:"args,omitempty"`
	AgentID        string         `json:"agent_id"`
	UserID         string         `json:"user_id,omitempty"`
	Goal           string         `json:"goal,omitempty"`
	Mode           string         `json:"mode,omitempty"`
	Passport       string         `json:"passport,omitempty"`
	IdempotencyKey string         `json:"idempotency_key,omitempty"`
	Intent         string         `json:"intent,omitempty"` // "execute" reserves limits and awaits an outcome
}

// Preflight asks for the decision on a. refused says that the action must not be
// taken; the decision says why.
func (c *Client) Preflight(ctx context.Context, a Action) (d evidence.Decision, refused bool, err error) {
	status, body, header, err := c.send(ctx, http.MethodPost, "/api/v1/actions/preflight", nil, a)
	if err != nil {
		return evidence.Decision{}, true, err
	}
	// A 403 is a decision or an error about the key: only a decision has the word.
	if status == http.StatusOK || status == http.StatusForbidden {
		if json.Unmarshal(body, &d) == nil && d.Decision != "" {
			return d, status != http.StatusOK, nil
		}
	}
	return evidence.Decision{}, true, answerError(status, body, header)
}

// ReportOutcome says what came of an action that the caller executed itself.
// state: succeeded, failed, unknown. status is the provider's, 0 for none.
func (c *Client) ReportOutcome(ctx context.Context, eventID, state string, status int, message string) error {
	in := struct {
		State  string `json:"state"`
		Status int    `json:"status,omitempty"`
		Error  string `json:"error,omitempty"`
	}{state, status, message}
	return c.call(ctx, http.MethodPost, "/api/v1/actions/"+url.PathEscape(eventID)+"/outcome", nil, in, nil)
}

// CreateKey makes a key; the secret is in Key.Key.
func (c *Client) CreateKey(ctx context.Context, n NewKey) (k Key, err error) {
	err = c.call(ctx, http.MethodPost, "/api/v1/keys", nil, n, &k)
	return k, err
}

// Keys lists keys, newest first.
func (c *Client) Keys(ctx context.Context, cursor string, limit int) (p Page[Key], err error) {
	err = c.call(ctx, http.MethodGet, "/api/v1/keys", paging(cursor, limit), nil, &p)
	return p, err
}

// RevokeKey revokes a key.
func (c *Client) RevokeKey(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, "/api/v1/keys/"+url.PathEscape(id), nil, nil, nil)
}

// Approvals lists approvals, newest first; state and agent "" are all.
func (c *Client) Approvals(ctx context.Context, state, agent, cursor string, limit int) (p Page[Approval], err error) {
	q := paging(cursor, limit)
	set(q, "state", state)
	set(q, "agent_id", agent)
	err = c.call(ctx, http.MethodGet, "/api/v1/approvals", q, nil, &p)
	return p, err
}

// UsedApprovals lists those whose call had an outcome, newest first: a state of an
// outcome, or OutcomeUnclear. A page may have fewer than limit, even none, and there
// are more as long as Next is not "".
func (c *Client) UsedApprovals(ctx context.Context, outcome, agent, cursor string, limit int) (p Page[Approval], err error) {
	q := paging(cursor, limit)
	set(q, "outcome", outcome)
	set(q, "agent_id", agent)
	err = c.call(ctx, http.MethodGet, "/api/v1/approvals", q, nil, &p)
	return p, err
}

// UnclearApprovals are the newest, at most n, of whose call nobody knows whether it took effect, and
// which were asked for within age; more says that there are others. It looks through
// some ten thousand used ones at most.
func (c *Client) UnclearApprovals(ctx context.Context, age time.Duration, n int) (list []Approval, more bool, err error) {
	const pages = 6
	cursor := ""
	for range pages {
		p, err := c.UsedApprovals(ctx, OutcomeUnclear, "", cursor, MaxLimit)
		if err != nil {
			return nil, false, err
		}
		for _, a := range p.Data {
			if time.Duration(a.Age)*time.Second > age {
				return list, false, nil
			}
			if len(list) == n {
				return list, true, nil
			}
			list = append(list, a)
		}
		if cursor = p.Next; cursor == "" {
			return list, false, nil
		}
	}
	return list, true, nil
}

// Approval gets one; with wait > 0 (at most MaxWait), when it is decided or
// wait is over.
func (c *Client) Approval(ctx context.Context, id string, wait time.Duration) (a Approval, err error) {
	q := url.Values{}
	if wait > 0 {
		q.Set("wait", wait.String())
	}
	err = c.call(ctx, http.MethodGet, "/api/v1/approvals/"+url.PathEscape(id), q, nil, &a)
	return a, err
}

// Decide gives a human's word on an approval, or takes a request back that this
// client's own key made (cancel).
func (c *Client) Decide(ctx context.Context, id string, v Verdict) (a Approval, err error) {
	err = c.call(ctx, http.MethodPost, "/api/v1/approvals/"+url.PathEscape(id)+"/decide", nil, v, &a)
	return a, err
}

// IssuePassport makes a passport.
func (c *Client) IssuePassport(ctx context.Context, n NewPassport) (p IssuedPassport, err error) {
	err = c.call(ctx, http.MethodPost, "/api/v1/passports/issue", nil, n, &p)
	return p, err
}

// VerifyPassport asks whether a token is good; audience "" is the sidecar's own.
func (c *Client) VerifyPassport(ctx context.Context, token, audience string) (v PassportVerdict, err error) {
	in := struct {
		Token    string `json:"token"`
		Audience string `json:"audience,omitempty"`
	}{token, audience}
	err = c.call(ctx, http.MethodPost, "/api/v1/passports/verify", nil, in, &v)
	return v, err
}

// RevokePassport ends a passport by its jti.
func (c *Client) RevokePassport(ctx context.Context, jti, reason string) (p RevokedPassport, err error) {
	in := struct {
		ID     string `json:"jti"`
		Reason string `json:"reason,omitempty"`
	}{jti, reason}
	err = c.call(ctx, http.MethodPost, "/api/v1/passports/revoke", nil, in, &p)
	return p, err
}

// JWKS gets the public keys of passports.
func (c *Client) JWKS(ctx context.Context) (set passport.JWKS, err error) {
	err = c.call(ctx, http.MethodGet, "/api/v1/passports/jwks", nil, nil, &set)
	return set, err
}

// Events lists evidence events, newest first, as raw JSON. q.Tenant is not
// sent: the key has one.
func (c *Client) Events(ctx context.Context, q EventQuery) (p Page[json.RawMessage], err error) {
	v := paging(q.Cursor, q.Limit)
	set(v, "tool", q.Tool)
	set(v, "agent_id", q.Agent)
	set(v, "decision", q.Decision)
	set(v, "kind", q.Kind)
	set(v, "state", q.State)
	set(v, "reason_code", q.Reason)
	if !q.Since.IsZero() {
		v.Set("since", q.Since.UTC().Format(time.RFC3339Nano))
	}
	if !q.Until.IsZero() {
		v.Set("until", q.Until.UTC().Format(time.RFC3339Nano))
	}
	err = c.call(ctx, http.MethodGet, "/api/v1/evidence/events", v, nil, &p)
	return p, err
}

// Event gets one evidence event as raw JSON.
func (c *Client) Event(ctx context.Context, id string) (b json.RawMessage, err error) {
	err = c.call(ctx, http.MethodGet, "/api/v1/evidence/events/"+url.PathEscape(id), nil, nil, &b)
	return b, err
}

// Verify asks the sidecar to check its own log. Who does not trust the sidecar
// reads the log itself.
func (c *Client) Verify(ctx context.Context) (r VerifyReport, err error) {
	err = c.call(ctx, http.MethodGet, "/api/v1/evidence/verify", nil, nil, &r)
	return r, err
}

// Healthy is nil when a sidecar serves at the address.
func (c *Client) Healthy(ctx context.Context) error {
	var h health
	if err := c.call(ctx, http.MethodGet, "/healthz", nil, nil, &h); err != nil {
		return err
	}
	if h.Status != "ok" {
		return fmt.Errorf("what answers at %s is not an ActPass sidecar", c.base)
	}
	return nil
}

// Readyz is what /readyz says.
type Readyz struct {
	Status string            `json:"status"` // ready, or not_ready
	Checks map[string]string `json:"checks"` // ok, or failing
}

// Ready asks whether the sidecar can do its work, and what fails.
func (c *Client) Ready(ctx context.Context) (r Readyz, err error) {
	status, body, header, err := c.send(ctx, http.MethodGet, "/readyz", nil, nil)
	if err != nil {
		return r, err
	}
	if json.Unmarshal(body, &r) != nil || r.Status == "" {
		return r, answerError(status, body, header)
	}
	return r, nil
}

// Metrics gets the metrics, in Prometheus' text format.
func (c *Client) Metrics(ctx context.Context) ([]byte, error) {
	status, body, header, err := c.send(ctx, http.MethodGet, "/metrics", nil, nil)
	if err == nil && status != http.StatusOK {
		err = answerError(status, body, header)
	}
	return body, err
}

func paging(cursor string, limit int) url.Values {
	v := url.Values{}
	set(v, "cursor", cursor)
	if limit != 0 {
		v.Set("limit", strconv.Itoa(limit))
	}
	return v
}

func set(v url.Values, name, value string) {
	if value != "" {
		v.Set(name, value)
	}
}

// call sends in and reads a success into out.
func (c *Client) call(ctx context.Context, method, path string, q url.Values, in, out any) error {
	status, body, header, err := c.send(ctx, method, path, q, in)
	if err != nil {
		return err
	}
	if status < 200 || status > 299 {
		return answerError(status, body, header)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("read the answer of %s %s: %w", method, path, err)
	}
	return nil
}

func (c *Client) send(ctx context.Context, method, path string, q url.Values, in any) (int, []byte, http.Header, error) {
	resp, err := c.do(ctx, method, path, q, in)
	if err != nil {
		return 0, nil, nil, err
	}
	defer resp.Body.Close()
	b, err := readAnswer(resp)
	if err != nil {
		return 0, nil, nil, fmt.Errorf("read the answer of %s %s: %w", method, path, err)
	}
	return resp.StatusCode, b, resp.Header, nil
}

// do sends in; the answer's body is the caller's to close.
func (c *Client) do(ctx context.Context, method, path string, q url.Values, in any) (*http.Response, error) {
	req, err := c.request(ctx, method, path, q, in)
	if err != nil {
		return nil, err
	}
	return c.roundTrip(req)
}

func (c *Client) request(ctx context.Context, method, path string, q url.Values, in any) (*http.Request, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("encode the body of %s %s: %w", method, path, err)
		}
		body = bytes.NewReader(b)
	}
	target := c.base + path
	if len(q) > 0 {
		target += "?" + q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, fmt.Errorf("call the API at %s: %w", c.base, err)
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, nil
}

func (c *Client) roundTrip(req *http.Request) (*http.Response, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" && req.Context().Err() == nil {
			return nil, fmt.Errorf("%w at %s: %w", ErrUnreachable, c.base, op.Err)
		}
		return nil, fmt.Errorf("call the API at %s: %w", c.base, err)
	}
	return resp, nil
}

func readAnswer(resp *http.Response) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(b) > maxAnswer {
		err = errors.New("it is larger than 64 MiB")
	}
	return b, err
}

// answerError turns an answer that is not a success into an *Error, also one
// that did not come from a sidecar.
func answerError(status int, body []byte, header http.Header) error {
	e := &Error{Status: status, RequestID: header.Get("X-Request-Id")}
	if n, err := strconv.Atoi(header.Get("Retry-After")); err == nil && n > 0 {
		e.RetryAfter = time.Duration(n) * time.Second
	}
	var b errorBody
	if json.Unmarshal(body, &b) == nil && b.Error.Code != "" {
		e.Code, e.Message, e.Field, e.Progress = b.Error.Code, b.Error.Message, b.Error.Field, b.Error.Progress
		return e
	}
	e.Code, e.Message = "unknown", fmt.Sprintf("the answer is %d %s, and not one of an ActPass sidecar", status, http.StatusText(status))
	return e
}
