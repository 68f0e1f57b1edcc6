package gate

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"sort"
	"strings"

	"github.com/actpass/sidecar/mapping"
)

// volatile headers change between an SDK's own attempts at one call. Everything
// else is part of what a human approved.
var volatile = map[string]bool{
	"Date": true, "User-Agent": true, "Accept-Encoding": true, "Content-Length": true,
	"Traceparent": true, "Tracestate": true, "Baggage": true, "Sentry-Trace": true,
	"X-Request-Id": true, "X-Correlation-Id": true, "X-Amzn-Trace-Id": true,
	"Sec-Websocket-Key": true, "X-Stripe-Client-Telemetry": true, "X-Stainless-Retry-Count": true, "X-Stainless-Read-Timeout": true,
	"X-Stainless-Timeout": true, "X-Amz-Date": true, "Amz-Sdk-Request": true, "Amz-Sdk-Invocation-Id": true,
	"X-B3-Traceid": true, "X-B3-Spanid": true, "X-B3-Parentspanid": true, "X-B3-Sampled": true, "B3": true,
	"X-Datadog-Trace-Id": true, "X-Datadog-Parent-Id": true, "X-Datadog-Sampling-Priority": true, "Newrelic": true,
	"X-Cloud-Trace-Context": true, "Uber-Trace-Id": true, "X-Trace-Id": true, "X-Span-Id": true,
	"X-Retry-Count": true, "X-Retry-Attempt": true,
	"Grpc-Timeout": true, "Grpc-Previous-Rpc-Attempts": true, "Grpc-Trace-Bin": true,
}

// fingerprint names one exact call: tenant, agent, method, canonical URL, the
// query and body as sent, and every header that is not volatile. Each part is
// length-prefixed, so no two calls share one by moving bytes between parts. The
// id of a JSON-RPC message only ties an answer to it: a client that asks again
// counts on, and asks the same.
func fingerprint(c *call) string {
	h := sha256.New()
	for _, s := range []string{c.Identity.TenantID, c.Identity.AgentID, c.match.Method, c.match.URL(), c.Head.Target, c.Head.Upgrade} {
		part(h, s)
	}
	names := make([]string, 0, len(c.Head.Header))
	for name := range c.Head.Header {
		if !volatile[name] {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	for _, name := range names {
		for _, v := range c.Head.Header[name] {
			if name == "Authorization" && strings.HasPrefix(v, "AWS4-") {
				// A signature covers the time of signing: the credential names the caller.
				v, _, _ = strings.Cut(v, "/")
			}
			part(h, name)
			part(h, v)
		}
	}
	part(h, "")
	body := c.out.Body
	if c.rpcID() != nil && c.out.Whole {
		if named, ok := mapping.WithoutRPCID(body); ok {
			body = named
		}
	}
	part(h, string(body))
	return hex.EncodeToString(h.Sum(nil))
}

// rpcID is the id of the one JSON-RPC message that the call is, nil for any other
// call: a batch stands for exactly its bytes.
func (c *call) rpcID() []byte {
	if len(c.reading.Calls) != 1 {
		return nil
	}
	return c.reading.Calls[0].RPCID
}

// requestHash is what an approval's passport is bound to; "" where the body was
// not read, and no passport bound to bytes can fit.
func (c *call) requestHash() string {
	if c.claims == nil || c.claims.ApprovalHash == "" {
		return "none"
	}
	if c.Body != nil && !c.out.Read {
		if err := c.readBody(c.rules.MaxInspect); err != nil {
			return "unread"
		}
	}
	if c.Body != nil && !c.out.Whole {
		return "unread"
	}
	return fingerprint(c)
}

// askedBy names a question: one exact call, asked for by exactly this rule. The
// same call under a rule that has changed is a new question.
func askedBy(call, ruleHash string) string {
	sum := sha256.Sum256([]byte(ruleHash))
	return call + "." + hex.EncodeToString(sum[:8])
}

// callOf is the call's part of a question's name.
func callOf(fingerprint string) string {
	call, _, _ := strings.Cut(fingerprint, ".")
	return call
}

func part(h hash.Hash, s string) { fmt.Fprintf(h, "%d:%s", len(s), s) }

// approvalOf is the question that a held call puts.
func (g *Gate) approvalOf(c *call) Approval {
	a := g.ask(c)
	a.Fingerprint = askedBy(fingerprint(c), c.asked)
	return a
}

func (g *Gate) ask(c *call) Approval {
	v := &c.verdict
	now := g.now()
	a := Approval{
		ID: newID("apr_"), TenantID: c.Identity.TenantID, AgentID: c.Identity.AgentID, KeyID: c.Identity.KeyID,
		UserID: clip(c.UserID), Goal: clip(c.Goal), EventID: c.id,
		Tool: v.call.Tool, Resource: v.call.Resource, Risk: v.risk,
		Args: c.event.Args, Request: c.event.Request,
		ReasonCode: v.policy.ReasonCode, Summary: v.policy.Summary,
		Policy: v.policy.Policy, Rule: v.policy.Rule, RuleHash: v.policy.RuleHash,
		Required: 1, State: ApprovalPending, CreatedAt: now,
		ExpiresAt: now.Add(defaultExpires), UseWithin: defaultUseWithin,
	}
	if n := len(c.reading.Calls); n > 1 {
		a.Summary += fmt.Sprintf(" The request holds %d calls, and all of them are sent.", n)
		a.Args = c.all(g.redactKey)
	}
	if p := v.policy.Approval; p != nil {
		a.Approvers, a.Required = p.Approvers, max(1, p.Required)
		if p.Expires > 0 {
			a.ExpiresAt = now.Add(p.Expires)
		}
		if p.UseWithin > 0 {
			a.UseWithin = p.UseWithin
		}
	}
	return a
}

// fingerprintPreflight names an action that no HTTP request carries.
func fingerprintPreflight(id Identity, tool, resource string, args map[string]any, key string) (string, error) {
	h := sha256.New()
	for _, s := range []string{"preflight", id.TenantID, id.AgentID, tool, resource, key} {
		part(h, s)
	}
	b, err := json.Marshal(args) // sorted keys
	if err != nil {
		return "", fmt.Errorf("fingerprint the arguments: %w", err)
	}
	part(h, string(b))
	return hex.EncodeToString(h.Sum(nil)), nil
}
