package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/actpass/sidecar/api"
)

// refundPassport is a wish for a passport that fits the refunds of these tests.
func refundPassport() api.NewPassport {
	return api.NewPassport{
		AgentID: "support_agent", UserID: "user_9", Goal: "refund", AllowedTools: []string{"stripe.refund.create"}, AllowedResources: []string{"stripe:charge:*"},
		ResourceConstraints: api.Constraints{"max_amount": int64(5000), "currency": "usd"}, TTL: 900,
	}
}

func (sc *sidecar) passport(change func(*api.NewPassport)) api.IssuedPassport {
	sc.t.Helper()
	n := refundPassport()
	if change != nil {
		change(&n)
	}
	p, err := sc.client().IssuePassport(context.Background(), n)
	must(sc.t, err)
	return p
}

// sendRefund sends a refund through a door, with a passport, "" for none.
func (d door) sendRefund(t testing.TB, sc *sidecar, amount, token string) answer {
	t.Helper()
	h := http.Header{"Authorization": {"Bearer sk_test_123"}}
	if token != "" {
		h["ActPass-Passport"] = strings.Split(token, "\n") // as an agent may well spell it
	}
	return d.send(t, sc, "POST", "api.stripe.com", "/v1/refunds", form, refund(amount), h)
}

// blocked sends what must not leave: the upstream sees no byte of it.
func (d door) blocked(t testing.TB, sc *sidecar, u *upstream, what, amount, token, reason string) {
	t.Helper()
	before := sc.newest("")
	u.quiet(t, what, func() {
		a := d.sendRefund(t, sc, amount, token)
		if a.status != 403 || a.header.Get("ActPass-Reason") != reason {
			t.Errorf("%s: %d %s, want 403 %s: %s", what, a.status, a.header.Get("ActPass-Reason"), reason, a.body)
		}
	})
	e := sc.newest(newestID(before))
	if len(e) != 1 || e[0].ReasonCode != reason || e[0].Outcome.State != "blocked" {
		t.Errorf("%s: events %+v", what, e)
	}
}

// newest lists the latest actions on record down to the one with an id, which is
// not among them; no more than three.
func (sc *sidecar) newest(downTo string) (list []event) {
	sc.t.Helper()
	page, err := sc.client().Events(context.Background(), api.EventQuery{Kind: "action", Limit: 3})
	must(sc.t, err)
	for _, raw := range page.Data {
		var e event
		must(sc.t, json.Unmarshal(raw, &e))
		if e.ID == downTo {
			break
		}
		list = append(list, e)
	}
	return list
}

func newestID(list []event) string {
	if len(list) == 0 {
		return ""
	}
	return list[0].ID
}

// TestStrictAsksForAPassport tries each door: without one, once with one, and
// again with the same.
func TestStrictAsksForAPassport(t *testing.T) {
	needStripeMock(t)
	t.Parallel()
	u := newUpstream(t)
	sc := start(t, settings{mode: "strict", front: u})
	for i, d := range doors {
		name := d.name + string(rune('0'+i))
		d.blocked(t, sc, u, name+" without", "4900", "", "passport.required")
		p := sc.passport(nil)
		before, seen := len(sc.events()), len(u.requestsSeen())
		a := d.sendRefund(t, sc, "4900", p.Token)
		if a.status != 200 || a.header.Get("ActPass-Decision") != "allow" {
			t.Fatalf("%s: %d %v %s", name, a.status, a.header, a.body)
		}
		arrived := u.requestsSeen()[seen:]
		if len(arrived) != 1 {
			t.Fatalf("%s: the upstream saw %d requests", name, len(arrived))
		}
		for header, values := range arrived[0].Header {
			if strings.HasPrefix(strings.ToLower(header), "actpass") || strings.Contains(strings.Join(values, " "), p.Token) {
				t.Errorf("%s: the upstream got %s: %v", name, header, values)
			}
		}
		if strings.Contains(string(arrived[0].Body), p.Token) {
			t.Errorf("%s: the upstream got the token", name)
		}
		e := sc.since(before)
		if len(e) != 1 || e[0].Source != "passport" || e[0].UserID != "user_9" || e[0].Goal != "refund" || e[0].Outcome.State != "forwarded" {
			t.Errorf("%s: %+v", name, e)
		}
		d.blocked(t, sc, u, name+" again", "4900", p.Token, "passport.replayed")
		// The next door takes the used one no better.
		doors[(i+1)%len(doors)].blocked(t, sc, u, name+" at the next door", "4900", p.Token, "passport.replayed")
	}
}

// wrongPassports is each kind of passport that does not fit a refund of 4900.
func wrongPassports(t testing.TB, sc *sidecar) map[string][2]string {
	t.Helper()
	made := func(change func(*api.NewPassport)) string { return sc.passport(change).Token }
	revoked := sc.passport(nil)
	_, err := sc.client().RevokePassport(context.Background(), revoked.ID, "lost")
	must(t, err)
	good := made(nil)
	parts := strings.Split(made(nil), ".")
	brief := made(func(n *api.NewPassport) { n.TTL = 1 })
	time.Sleep(6500 * time.Millisecond) // its second, and the leeway of five
	wrong := forgedPassports(t, sc)
	maps.Copy(wrong, map[string][2]string{
		"tool":        {made(func(n *api.NewPassport) { n.AllowedTools = []string{"stripe.payout.*"} }), "passport.tool"},
		"resource":    {made(func(n *api.NewPassport) { n.AllowedResources = []string{"stripe:charge:ch_9"} }), "passport.resource"},
		"amount":      {made(func(n *api.NewPassport) { n.ResourceConstraints["max_amount"] = int64(4899) }), "passport.constraint"},
		"least":       {made(func(n *api.NewPassport) { n.ResourceConstraints["min_amount"] = int64(4901) }), "passport.constraint"},
		"one of":      {made(func(n *api.NewPassport) { n.ResourceConstraints["one_of"] = map[string]any{"charge": []any{"ch_9"}} }), "passport.constraint"},
		"equals":      {made(func(n *api.NewPassport) { n.ResourceConstraints["equals"] = map[string]any{"reason": "duplicate"} }), "passport.constraint"},
		"prefix":      {made(func(n *api.NewPassport) { n.ResourceConstraints["prefix"] = map[string]any{"charge": "py_"} }), "passport.constraint"},
		"at most":     {made(func(n *api.NewPassport) { n.ResourceConstraints["max"] = map[string]any{"quantity": 1} }), "passport.constraint"},
		"HS256":       {base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","kid":"k","typ":"actpass+jwt"}`)) + "." + parts[1] + "." + parts[2], "passport.algorithm"},
		"a kid's URL": {base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"EdDSA","kid":"https://evil.example/k","typ":"actpass+jwt"}`)) + "." + parts[1] + "." + parts[2], "passport.key"},
		"currency":    {made(func(n *api.NewPassport) { n.ResourceConstraints["currency"] = "eur" }), "passport.constraint"},
		"risk":        {made(func(n *api.NewPassport) { n.RiskTier = "medium" }), "passport.risk"},
		"agent":       {made(func(n *api.NewPassport) { n.AgentID = "other" }), "passport.agent"},
		"audience":    {made(func(n *api.NewPassport) { n.Audience = "elsewhere" }), "passport.audience"},
		"request":     {made(func(n *api.NewPassport) { n.ApprovalHash = "00" }), "passport.request"},
		"expired":     {brief, "passport.expired"},
		"revoked":     {revoked.Token, "passport.revoked"},
		"no token":    {"nonsense", "passport.malformed"},
		"unsigned":    {parts[0] + "." + parts[1] + ".", "passport.signature"},
		"swapped":     {parts[0] + "." + strings.Split(good, ".")[1] + "." + parts[2], "passport.signature"},
		"alg none":    {"eyJhbGciOiJub25lIiwidHlwIjoiYWN0cGFzcytqd3QifQ." + parts[1] + ".", "passport.algorithm"},
		"strange kid": {"eyJhbGciOiJFZERTQSIsImtpZCI6Ii4uLy4uL2tleSIsInR5cCI6ImFjdHBhc3Mrand0In0." + parts[1] + "." + parts[2], "passport.key"},
	})
	return wrong
}

func TestWrongPassports(t *testing.T) {
	needStripeMock(t)
	for _, mode := range []string{"strict", "enforce"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			u := newUpstream(t)
			sc := start(t, settings{mode: mode, front: u})
			for what, w := range wrongPassports(t, sc) {
				for _, d := range doors {
					d.blocked(t, sc, u, what+"/"+d.name, "4900", w[0], w[1])
				}
				u.quiet(t, what+"/preflight", func() {
					got, refused, err := sc.client().Preflight(t.Context(), refundAction(w[0]))
					must(t, err)
					if !refused || got.ReasonCode != w[1] {
						t.Errorf("%s in preflight: %s %v, want %s", what, got.ReasonCode, refused, w[1])
					}
				})
			}
			// None of it used up the good one.
			p := sc.passport(nil)
			doors[1].blocked(t, sc, u, "over its amount", "5001", p.Token, "passport.constraint")
			if a := doors[1].sendRefund(t, sc, "5000", p.Token); a.status != 200 {
				t.Errorf("%d %s", a.status, a.body)
			}
		})
	}
	for _, mode := range []string{"monitor", "warn"} {
		t.Run(mode, func(t *testing.T) { t.Parallel(); wrongPassportsPass(t, mode) })
	}
}

func refundAction(token string) api.Action {
	return api.Action{
		Tool: "stripe.refund.create", Resource: "stripe:charge:ch_123", AgentID: "support_agent", Passport: strings.ReplaceAll(token, "\n", ", "),
		Args: map[string]any{"amount": 4900, "currency": "usd", "charge": "ch_123"},
	}
}

// wrongPassportsPass: monitor and warn let each of them through, and say so.
func wrongPassportsPass(t *testing.T, mode string) {
	u := newUpstream(t)
	sc := start(t, settings{mode: mode, front: u})
	for what, w := range wrongPassports(t, sc) {
		for _, d := range doors {
			d.passes(t, sc, u, mode, what+"/"+d.name, w)
		}
		before := sc.newest("")
		u.quiet(t, what+"/preflight", func() {
			got, refused, err := sc.client().Preflight(t.Context(), refundAction(w[0]))
			must(t, err)
			if refused || got.Would["enforce"] != "block" || got.Would["strict"] != "block" {
				t.Errorf("%s in preflight: %v %+v", what, refused, got)
			}
		})
		if e := sc.newest(newestID(before)); len(e) != 1 || !strings.Contains(strings.Join(e[0].Notes, " "), w[1]) {
			t.Errorf("%s in preflight: %+v", what, e)
		}
	}
}

// passes sends what monitor and warn let through, and record.
func (d door) passes(t *testing.T, sc *sidecar, u *upstream, mode, what string, w [2]string) {
	t.Helper()
	before, seen := sc.newest(""), len(u.requestsSeen())
	a := d.sendRefund(t, sc, "4900", w[0])
	arrived := u.requestsSeen()[seen:]
	if a.status != 200 || len(arrived) != 1 {
		t.Errorf("%s: %d, the upstream saw %d", what, a.status, len(arrived))
		return
	}
	e := sc.newest(newestID(before))
	if len(e) != 1 || e[0].Would["enforce"] != "block" || e[0].Would["strict"] != "block" || (a.header.Get("ActPass-Warning") != "") != (mode == "warn") || !strings.Contains(strings.Join(e[0].Notes, " "), w[1]) {
		t.Errorf("%s: %+v", what, e)
	}
	for header := range arrived[0].Header {
		if strings.HasPrefix(strings.ToLower(header), "actpass") {
			t.Errorf("%s: the upstream got %s", what, header)
		}
	}
}

// TestOnePassportManyCalls sends the same passport from many connections at once.
func TestOnePassportManyCalls(t *testing.T) {
	needStripeMock(t)
	t.Parallel()
	u := newUpstream(t)
	sc := start(t, settings{mode: "strict", front: u})
	p := sc.passport(nil)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() { doors[i%len(doors)].sendRefund(t, sc, "4900", p.Token) })
	}
	wg.Wait()
	if n := len(u.requestsSeen()); n != 1 {
		t.Errorf("one passport made %d requests", n)
	}
}

// TestPreflightWithAPassport asks, which uses nothing up, and then acts.
func TestPreflightWithAPassport(t *testing.T) {
	needStripeMock(t)
	t.Parallel()
	u := newUpstream(t)
	sc := start(t, settings{mode: "strict", front: u})
	p := sc.passport(nil)
	ask := func(amount int, token string) (string, bool) {
		t.Helper()
		d, refused, err := sc.client().Preflight(t.Context(), api.Action{
			Tool: "stripe.refund.create", Resource: "stripe:charge:ch_123", AgentID: "support_agent", Passport: token,
			Args: map[string]any{"amount": amount, "currency": "usd", "charge": "ch_123"},
		})
		must(t, err)
		return d.ReasonCode, refused
	}
	for range 2 {
		if code, refused := ask(4900, p.Token); refused {
			t.Errorf("refused: %s", code)
		}
	}
	if code, refused := ask(4900, ""); !refused || code != "passport.required" {
		t.Errorf("%s %v", code, refused)
	}
	if code, refused := ask(5001, p.Token); !refused || code != "passport.constraint" {
		t.Errorf("%s %v", code, refused)
	}
	if a := doors[1].sendRefund(t, sc, "4900", p.Token); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
	if code, refused := ask(4900, p.Token); !refused || code != "passport.replayed" {
		t.Errorf("%s %v", code, refused)
	}
}

// TestAnApprovalsPassport is held, approved, and sent under the passport that
// the approval minted: once, and these bytes only. The held call's own retry
// shares that use.
func TestAnApprovalsPassport(t *testing.T) {
	needStripeMock(t)
	for _, mode := range []string{"enforce", "strict"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			u := newUpstream(t)
			sc := start(t, settings{mode: "enforce", hold: "150ms", front: u})
			d := doors[1]
			held := d.sendRefund(t, sc, "25000", "")
			if held.status != 503 || held.header.Get("ActPass-Approval") == "" {
				t.Fatalf("%d %v %s", held.status, held.header, held.body)
			}
			a, err := sc.client().Decide(t.Context(), held.header.Get("ActPass-Approval"), api.Verdict{Decision: "approve"})
			must(t, err)
			if a.PassportToken == "" {
				t.Fatalf("%+v", a)
			}
			if mode == "strict" { // what was approved is what strict asks for, too
				text, err := os.ReadFile(sc.config)
				must(t, err)
				must(t, os.WriteFile(sc.config, bytes.Replace(text, []byte("mode: enforce"), []byte("mode: strict"), 1), 0o644))
				sc.awaitLog(t, "configuration reloaded")
			}
			d.blocked(t, sc, u, "another amount", "25001", a.PassportToken, "passport.request")
			seen := len(u.requestsSeen())
			if got := d.sendRefund(t, sc, "25000", a.PassportToken); got.status != 200 {
				t.Fatalf("%d %s", got.status, got.body)
			}
			if n := len(u.requestsSeen()) - seen; n != 1 {
				t.Fatalf("the upstream saw %d requests", n)
			}
			u.quiet(t, "the same passport again", func() {
				if got := d.sendRefund(t, sc, "25000", a.PassportToken); got.status == 200 && got.header.Get("ActPass-Replayed") == "" {
					t.Errorf("%d %s", got.status, got.body)
				}
			})
			u.quiet(t, "the held call's own retry", func() { d.sendRefund(t, sc, "25000", "") })
		})
	}
}

func (sc *sidecar) await(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 10s: %s\n%s", what, tail(sc.log(), 20))
		}
	}
}

// awaitLog waits for a line of the sidecar's own log.
func (sc *sidecar) awaitLog(t testing.TB, text string) {
	t.Helper()
	sc.await(t, text, func() bool { return strings.Contains(strings.Join(sc.log(), "\n"), text) })
}

// TestAMountedPassport is a file that is replaced while the sidecar runs.
func TestAMountedPassport(t *testing.T) {
	needStripeMock(t)
	t.Parallel()
	u := newUpstream(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "passport")
	sc := start(t, settings{mode: "strict", front: u, extra: "passport: { file: " + file + " }"})
	put := func(token string) {
		must(t, os.WriteFile(file+".new", []byte(token+"\n"), 0o600))
		must(t, os.Rename(file+".new", file))
	}
	d := doors[1]
	d.blocked(t, sc, u, "no file", "4900", "", "passport.required")
	for range 2 {
		put(sc.passport(nil).Token)
		got := answer{}
		for end := time.Now().Add(10 * time.Second); got.status != 200 && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			got = d.sendRefund(t, sc, "4900", "")
		}
		if got.status != 200 {
			t.Fatalf("%d %s", got.status, got.body)
		}
		d.blocked(t, sc, u, "it is used", "4900", "", "passport.required")
	}
	put(sc.passport(func(n *api.NewPassport) { n.AllowedTools = []string{"x"} }).Token)
	time.Sleep(1500 * time.Millisecond)
	d.blocked(t, sc, u, "for another tool", "4900", "", "passport.required")
	must(t, os.Remove(file))
	time.Sleep(1500 * time.Millisecond)
	d.blocked(t, sc, u, "gone", "4900", "", "passport.required")
}

// TestPassportsOutliveTheProcess restarts the sidecar by force: the signing key,
// what was used and what was revoked are still known.
func TestPassportsOutliveTheProcess(t *testing.T) {
	needStripeMock(t)
	t.Parallel()
	u := newUpstream(t)
	sc := start(t, settings{mode: "strict", front: u})
	d := doors[1]
	used, revoked, good := sc.passport(nil), sc.passport(nil), sc.passport(nil)
	if a := d.sendRefund(t, sc, "4900", used.Token); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	_, err := sc.client().RevokePassport(t.Context(), revoked.ID, "")
	must(t, err)
	sc.kill()
	sc.run()
	if out, code := sc.cli("passport", "rotate"); code != 0 {
		t.Fatal(out)
	}
	sc.awaitLog(t, "passport keys changed")
	d.blocked(t, sc, u, "used before", "4900", used.Token, "passport.replayed")
	d.blocked(t, sc, u, "revoked before", "4900", revoked.Token, "passport.revoked")
	if a := d.sendRefund(t, sc, "4900", good.Token); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
	lost := sc.passport(nil)
	if out, code := sc.cli("passport", "rotate", "--drop-old"); code != 0 {
		t.Fatal(out)
	}
	sc.await(t, "the second rotation", func() bool {
		return strings.Count(strings.Join(sc.log(), "\n"), "passport keys changed") == 2
	})
	d.blocked(t, sc, u, "signed by a key that was dropped", "4900", lost.Token, "passport.key")
}
