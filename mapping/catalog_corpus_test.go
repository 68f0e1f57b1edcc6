package mapping_test

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/mapping/corpus"
	"github.com/actpass/sidecar/policy"
)

// inspectLimit is the default of limits.max_inspect_bytes.
const inspectLimit = 1 << 20

// TestCorpus puts every evasion that can be said as a head and a body to the
// Stripe pack. None may be read as a softer call than the upstream could see.
func TestCorpus(t *testing.T) {
	set, policies := corpusRules(t)
	cases, err := corpus.Load(os.DirFS("testdata"), "corpus")
	if err != nil {
		t.Fatal(err)
	}
	judged := 0
	for _, c := range cases {
		if c.Wire {
			continue
		}
		judged++
		t.Run(c.Name, func(t *testing.T) {
			r := readCase(t, set, c)
			verdict, why := judge(r, policies, c.Tool)
			ok := map[corpus.Outcome][]string{
				corpus.Refuse:    {"ambiguous"},
				corpus.Canonical: {"deny"},
				corpus.Either:    {"ambiguous", "deny"},
				corpus.Allow:     {"allow"},
			}[c.Expect]
			if !slices.Contains(ok, verdict) {
				t.Fatalf("%s\ngot %s (%s), want %s\nreading: %+v", c.Why, verdict, why, c.Expect, r)
			}
			if verdict != "ambiguous" {
				return
			}
			if s := r.Ambiguous[0].Status; !slices.Contains(c.Statuses, s) {
				t.Errorf("status %d (%s), want one of %v", s, r.Ambiguous[0].Detail, c.Statuses)
			}
			for _, a := range r.Ambiguous {
				for _, ch := range []byte(a.Detail) {
					if ch < ' ' || ch == 0x7f {
						t.Errorf("control character in the detail %q", a.Detail)
					}
				}
			}
		})
	}
	if judged < 300 {
		t.Errorf("%d cases judged, want at least 300", judged)
	}
}

func readCase(t *testing.T, set *mapping.Set, c corpus.Case) mapping.Reading {
	t.Helper()
	h, body, err := c.Split()
	if err != nil {
		t.Fatal(err)
	}
	req := mapping.Request{
		Method:        h.Method,
		Scheme:        c.Scheme,
		Authority:     c.Authority,
		Host:          h.Host,
		Target:        h.Target,
		Header:        h.Header(),
		ContentLength: int64(len(body)),
	}
	whole := len(body) <= inspectLimit
	if !whole {
		body = body[:inspectLimit]
	}
	m := set.Match(&req)
	if !m.NeedBody { // as the gate has it
		body, whole = nil, len(body) == 0
	}
	return m.Read(body, whole)
}

// corpusRules are the Stripe pack and the corpus' own rules and policy.
func corpusRules(t testing.TB) (*mapping.Set, *policy.Set) {
	t.Helper()
	pack, err := mapping.Pack("stripe")
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.ReadFile("testdata/corpus/mapping.yaml")
	if err != nil {
		t.Fatal(err)
	}
	set, err := mapping.Compile([]mapping.Source{pack, {Name: "corpus/mapping.yaml", Data: own}}, mapping.Options{})
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("testdata/corpus/policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	policies, err := policy.Compile([]policy.Source{{Name: "corpus/policy.yaml", Data: text}}, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return set, policies
}

// judge says what becomes of a reading: an ambiguity refuses, an argument that
// is missing or of the wrong type denies, then the policy speaks. Of several
// calls the strictest counts. tool, if any, is what the call that counts, or
// with it one of the others, must be.
func judge(r mapping.Reading, policies *policy.Set, tool string) (verdict, why string) {
	if len(r.Ambiguous) > 0 {
		return "ambiguous", r.Ambiguous[0].Class + ": " + r.Ambiguous[0].Detail
	}
	strictest, found := policy.Allow, tool == ""
	for _, c := range r.Calls {
		found = found || c.Tool == tool
		d := policies.Decide(&policy.Input{
			Tool: c.Tool, Resource: c.Resource, Risk: c.Risk,
			Args: c.Args, Path: c.Path, Query: c.Query, Header: c.Header(), Now: time.Unix(1_800_000_000, 0),
		})
		effect := d.Effect
		if len(c.Problems) > 0 {
			effect = policy.Deny
		}
		if effect <= strictest {
			strictest, why = effect, c.Tool+": "+d.Summary
		}
	}
	if !found {
		return "misread", "the tool " + r.Calls[0].Tool
	}
	return strictest.String(), why
}

// TestCorpusLetsNothingThrough does not believe what the cases expect: but for
// the controls, none may be read as a call that the policy lets through.
func TestCorpusLetsNothingThrough(t *testing.T) {
	set, policies := corpusRules(t)
	cases, err := corpus.Load(os.DirFS("testdata"), "corpus")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		if c.Wire || c.Expect == corpus.Allow {
			continue
		}
		if verdict, _ := judge(readCase(t, set, c), policies, ""); verdict != "allow" && verdict != "require_approval" {
			continue
		}
		t.Errorf("%s: read as a call that the policy lets through: %.200q", c.Name, c.Raw)
	}
}

// TestCorpusConnectNames puts the CONNECT targets to the canonicaliser, which
// is what the front door asks before it answers.
func TestCorpusConnectNames(t *testing.T) {
	cases, err := corpus.Load(os.DirFS("testdata"), "corpus")
	if err != nil {
		t.Fatal(err)
	}
	if host, port, err := mapping.Authority("https", "api.stripe.com:443"); err != nil || host != "api.stripe.com" || port != "443" {
		t.Fatalf("the plain name: %q %q %v", host, port, err)
	}
	tried := 0
	for _, c := range cases {
		// What these disagree about stands beside the name.
		if c.Class != "connect" || slices.Contains([]string{"connect/host-differs", "connect/lower-case", "connect/port-none"}, c.Name) {
			continue
		}
		tried++
		h, _, err := c.Split()
		if err != nil {
			t.Fatal(err)
		}
		if host, port, err := mapping.Authority("https", h.Target); err == nil {
			t.Errorf("%s: %q is taken for %s:%s", c.Name, h.Target, host, port)
		}
	}
	if tried < 15 {
		t.Errorf("%d names tried, want at least 15", tried)
	}
}
