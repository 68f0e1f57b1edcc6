package mapping

import (
	"bytes"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"testing"
)

func manyRules(n int) string {
	var b strings.Builder
	b.WriteString("rules:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - { match: { host: api%d.example.com, methods: [POST], path: \"/v1/things%d/{id}\" }, tool: t.t%d, args: form, resource: \"t:{path.id}\" }\n", i%50, i/50, i)
	}
	return b.String()
}

func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := mustCompile(b, manyRules(n))
			last := n - 1
			req := &Request{Method: "POST", Scheme: "https", Authority: fmt.Sprintf("api%d.example.com:443", last%50), Target: fmt.Sprintf("/v1/things%d/x1", last/50)}
			if m := s.Match(req); m.Rule == nil || len(m.Ambiguous) > 0 {
				b.Fatal("not matched")
			}
			b.ReportAllocs()
			for b.Loop() {
				s.Match(req)
			}
		})
	}
}

// refundForm is a refund as an SDK sends it: nesting, lists, escapes.
func refundForm() (*Request, []byte) {
	req, body := form("charge=ch_3OqYJ2LkdIwHu7ix0z9v1c2d&amount=4900&currency=usd&reason=requested_by_customer&metadata[order_id]=6735&metadata[customer]=cus_NffrFeUfNV2Hib&metadata[agent]=support_agent&expand[]=charge&expand[]=payment_intent&refund_application_fee=true&reverse_transfer=false&instructions_email=jenny.rosen%40example.com&description=" + strings.Repeat("x", 220))
	req.Host = "api.stripe.com"
	req.Header = map[string][]string{
		"Content-Type": {"application/x-www-form-urlencoded"}, "Authorization": {"Bearer sk_test_1"}, "Idempotency-Key": {"7f3a"},
		"User-Agent": {"Stripe/v1 PythonBindings/7.1.0"}, "Stripe-Version": {"2024-06-20"}, "X-Stripe-Client-User-Agent": {"{}"},
		"Accept": {"*/*"}, "Accept-Encoding": {"gzip"}, "Content-Length": {fmt.Sprint(len(body))},
	}
	return req, body
}

// atSidecarsPace has garbage collected as often as the sidecar has it (cmd/actpass).
// GOGC in the environment comes first, there as here.
func atSidecarsPace(b *testing.B) {
	if os.Getenv("GOGC") == "" {
		before := debug.SetGCPercent(400)
		b.Cleanup(func() { debug.SetGCPercent(before) })
	}
}

func BenchmarkForm(b *testing.B) {
	atSidecarsPace(b)
	s := mustCompile(b, stripeRules)
	req, body := refundForm()
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		m := s.Match(req)
		if r := m.Read(body, true); len(r.Ambiguous) > 0 {
			b.Fatal(r.Ambiguous)
		}
	}
}

// TestAllocations: a reading is on the path of every call.
func TestAllocations(t *testing.T) {
	s := mustCompile(t, stripeRules)
	req, body := refundForm()
	if n := testing.AllocsPerRun(200, func() { s.Match(req).Read(body, true) }); n > 16 {
		t.Errorf("%v allocations for one form", n)
	}
}

// TestReadTwice: the room that a reading takes in its match is taken once.
func TestReadTwice(t *testing.T) {
	s := mustCompile(t, stripeRules)
	req, body := refundForm()
	m := s.Match(req)
	first := m.Read(body, true)
	other := bytes.Replace(body, []byte("4900"), []byte("5100"), 1)
	second := m.Read(other, true)
	if a, b := first.Calls[0].Args["amount"], second.Calls[0].Args["amount"]; a != int64(4900) || b != int64(5100) {
		t.Errorf("two readings of one match: amounts %v and %v", a, b)
	}
}

func BenchmarkJSON(b *testing.B) {
	s := mustCompile(b, stripeRules)
	req, body := post("/v2/money", "application/json", `{"amount":4900,"currency":"usd","live":true,"to":{"account":"acct_1","memo":"`+strings.Repeat("x", 300)+`"},"rate":1.25,"tags":["a","b","c"]}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if r := s.Match(req).Read(body, true); len(r.Ambiguous) > 0 {
			b.Fatal(r.Ambiguous)
		}
	}
}

func BenchmarkUnmapped(b *testing.B) {
	s := mustCompile(b, stripeRules)
	req := &Request{Method: "GET", Scheme: "https", Authority: "example.com:443", Host: "example.com", Target: "/a/b/c?x=1&y=2", Header: map[string][]string{"Accept": {"*/*"}}}
	b.ReportAllocs()
	for b.Loop() {
		s.Match(req).Read(nil, false)
	}
}
