package openapi

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/actpass/sidecar/mapping"
)

func TestIdentifiers(t *testing.T) {
	for text, want := range map[string]bool{
		"42": true, "0": true, "2026-01-31": true, "10.0.0.1": true, "1.5": true,
		"f47ac10b-58cc-4372-a567-0e02b2c3d479": true, "F47AC10B-58CC-4372-A567-0E02B2C3D479": true,
		"01ARZ3NDEKTSV4RRFFQ69G5FAV": true, "deadbeef01": true, "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b": true,
		"ch_123": true, "ch_3MmlLrLkdIwHu7ix0snN0B15": true, "cs_test_a1B2": true, "sk_live_abcdEFGH": true, "INV-0042": true, "apr_9Xy": true,
		"ada@example.com": true, "ev_0199a5c0-7d2e-7c3b-9f10-2b6f6f0a1c22": true,
		"dQw4w9WgXcQ-aBcDeFgHiJ": true,
		"refunds":                false, "payment_intents": false, "v1": false, "v2beta1": false, "api": false, "search": false, "checkout": false,
		"account_links": false, "add-on": false, "deadbeef": false, "facade": false, "oauth2": false, "": false, "me": false,
		"tax_registrations_list": false, "s3": false,
	} {
		if got := isIdentifier(text); got != want {
			t.Errorf("%q: identifier %v, want %v", text, got, want)
		}
	}
}

func observed() map[Call]int {
	calls := map[Call]int{
		{"GET", "api.tickets.example:443", "/api/v2/tickets/17", ""}:                                3,
		{"GET", "api.tickets.example:443", "/api/v2/tickets/18", ""}:                                2,
		{"GET", "api.tickets.example:443", "/api/v2/tickets", ""}:                                   4,
		{"POST", "api.tickets.example:443", "/api/v2/tickets/17/close", "application/json"}:         1,
		{"POST", "api.tickets.example:443", "/api/v2/tickets", "application/json; charset=utf-8"}:   5,
		{"POST", "api.tickets.example:443", "/api/v2/tickets", "application/x-www-form-urlencoded"}: 1,
		{"GET", "api.tickets.example:443", "/api/v2/tickets/search", ""}:                            1,
		{"DELETE", "api.tickets.example:443", "/api/v2/users/usr_9Xy8/notes/3", ""}:                 1,
		{"PUT", "other.example:8443", "/blobs/" + strings.Repeat("ab12", 16), "image/png"}:          1,
		{"get", "api.tickets.example:443", "/lower", ""}:                                            1,
		{"GET", "api.tickets.example:443", "/a//b", ""}:                                             1,
	}
	for i := range 20 { // a collection of things with names
		calls[Call{"GET", "api.tickets.example:443", fmt.Sprintf("/api/v2/queues/%c-team/members", 'a'+i), ""}] = 1
	}
	return calls
}

func TestShapes(t *testing.T) {
	var got []string
	for _, s := range Shapes(observed()) {
		got = append(got, strings.TrimSpace(fmt.Sprintf("%d %s %s%s %s", s.Calls, s.Method, s.Host, s.Path, s.Odd)))
	}
	want := []string{
		"20 GET api.tickets.example/api/v2/queues/{queue}/members",
		"6 POST api.tickets.example/api/v2/tickets",
		"5 GET api.tickets.example/api/v2/tickets/{ticket}",
		"4 GET api.tickets.example/api/v2/tickets",
		"1 GET api.tickets.example/a//b the path has an empty segment",
		"1 GET api.tickets.example/api/v2/tickets/search",
		"1 POST api.tickets.example/api/v2/tickets/{ticket}/close",
		"1 DELETE api.tickets.example/api/v2/users/{user}/notes/{note}",
		"1 get api.tickets.example/lower the method is no upper-case word",
		"1 PUT other.example:8443/blobs/{blob}",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// TestObserve: what is suggested maps the calls that it was drawn from.
func TestObserve(t *testing.T) {
	calls := observed()
	p, err := Observe(calls)
	if err != nil {
		t.Fatal(err)
	}
	set := compile(t, p.YAML())
	for c := range calls {
		req := &mapping.Request{Method: c.Method, Scheme: "https", Authority: c.Authority, Host: c.Authority, Target: c.Path}
		if c.ContentType != "" {
			req.Header = map[string][]string{"Content-Type": {c.ContentType}}
			req.ContentLength = 2
		}
		odd := c.Method == "get" || c.Path == "/a//b"
		m := set.Match(req)
		if (m.Rule == nil) != odd && !odd {
			t.Errorf("%s %s%s: rule %+v", c.Method, c.Authority, c.Path, m.Rule)
			continue
		}
		if odd {
			continue
		}
		body := "{}"
		if strings.Contains(c.ContentType, "form") {
			body = "a="
		}
		if c.ContentType == "" {
			body = ""
		}
		for _, a := range m.Read([]byte(body), true).Ambiguous {
			t.Errorf("%s %s: %s", c.Method, c.Path, a.Detail)
		}
	}
	text := string(p.YAML())
	for _, want := range []string{
		"tool: tickets.ticket.close", "tool: tickets.queue.member.list", "tool: other.blob.replace", `host: "other.example:8443"`,
		`resource: "tickets:user:{path.user}/note:{path.note}"`, "# seen 20 times",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if len(p.Left) != 2 {
		t.Errorf("left: %v", p.Left)
	}
	none, err := Observe(nil)
	if err != nil || len(none.Operations) != 0 {
		t.Errorf("of nothing: %v, %v", none, err)
	}
}

func TestProvider(t *testing.T) {
	for host, want := range map[string]string{
		"api.stripe.com": "stripe", "stripe.com": "stripe", "api.example.co.uk": "example", "localhost:8080": "localhost",
		"10.0.0.1:80": "host_10_0_0_1", "[::1]:8080": "host_1", "a.b.tickets.example:8443": "tickets", "": "host",
	} {
		if got := Provider(host); got != want || !validName(got) {
			t.Errorf("%q: %q, want %q", host, got, want)
		}
	}
}

// FuzzObserve: agents choose hosts and paths, and must not choose what a rule
// file says.
func FuzzObserve(f *testing.F) {
	f.Add("GET", "api.x.example:443", "/v1/a/{b}\"\n- tool: evil", "text/plain")
	f.Add("POST", "h:1", "/%7bx%7d/*/[a]/\u2028#", "application/json")
	f.Fuzz(func(t *testing.T, method, authority, path, contentType string) {
		p, err := Observe(map[Call]int{{method, authority, path, contentType}: 1, {"GET", "a.example:443", "/ok/1", ""}: 1})
		if err != nil {
			return
		}
		set := compile(t, p.YAML())
		rules := 0
		for i := range p.Operations {
			rules += len(p.Operations[i].Bodies)
		}
		if set.Len() != rules {
			t.Fatalf("%d rules for %d: %s", set.Len(), rules, p.YAML())
		}
	})
}
