package mapping_test

import (
	"os"
	"slices"
	"testing"

	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/mapping/corpus"
)

// denyAbove is what the corpus' policy denies: more than 500.00.
const denyAbove = 50000

// inspectLimit is the default of limits.max_inspect_bytes.
const inspectLimit = 1 << 20

// TestCorpus puts every evasion that can be said as a head and a body to the
// Stripe pack. None may be read as a softer call than the upstream could see.
func TestCorpus(t *testing.T) {
	set := stripePack(t)
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
			verdict, why := judge(r, c.Tool)
			ok := map[corpus.Outcome][]string{
				corpus.Refuse:    {"ambiguous"},
				corpus.Canonical: {"denied"},
				corpus.Either:    {"ambiguous", "denied"},
				corpus.Allow:     {"allowed"},
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
		Authority:     "api.stripe.com:443",
		Host:          h.Host,
		Target:        h.Target,
		Header:        h.Header(),
		ContentLength: int64(len(body)),
	}
	whole := len(body) <= inspectLimit
	if !whole {
		body = body[:inspectLimit]
	}
	return set.Match(&req).Read(body, whole)
}

// judge says what becomes of a reading under the corpus' policy: an ambiguity
// refuses; an argument that is missing or of the wrong type denies; so does a
// tool that no policy is about.
func judge(r mapping.Reading, tool string) (verdict, why string) {
	if len(r.Ambiguous) > 0 {
		return "ambiguous", r.Ambiguous[0].Class + ": " + r.Ambiguous[0].Detail
	}
	if len(r.Calls) != 1 {
		return "misread", "not one call"
	}
	call := r.Calls[0]
	if tool != "" && call.Tool != tool {
		return "misread", "tool " + call.Tool
	}
	switch call.Tool {
	case "stripe.refund.create":
	case "stripe.charge.retrieve":
		return "allowed", "a read of one charge"
	default:
		return "denied", "no policy is about " + call.Tool
	}
	if len(call.Problems) > 0 {
		return "denied", call.Problems[0].Arg + " " + call.Problems[0].Detail
	}
	amount, ok := call.Args["amount"].(int64)
	if !ok {
		return "denied", "no amount that is an integer"
	}
	currency, ok := call.Args["currency"].(string)
	switch {
	case amount > denyAbove:
		return "denied", "too large"
	case ok && currency == "usd" && amount >= 0 && amount <= 5000:
		return "allowed", "small"
	}
	return "held", "in between"
}

// TestCorpusLetsNothingThrough does not believe what the cases expect: but for
// the controls, none may be read as a call that the policy lets through.
func TestCorpusLetsNothingThrough(t *testing.T) {
	set := stripePack(t)
	cases, err := corpus.Load(os.DirFS("testdata"), "corpus")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		if c.Wire || c.Expect == corpus.Allow {
			continue
		}
		if verdict, _ := judge(readCase(t, set, c), ""); verdict != "allowed" && verdict != "held" {
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
