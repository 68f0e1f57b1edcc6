package mapping

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const stripeRules = `
errors: stripe
hosts: [api.stripe.com]
optional:
  - { name: amount, type: integer }
  - { name: currency, type: currency }
rules:
  - match: { methods: [POST], path: /v1/refunds }
    tool: stripe.refund.create
    risk: high
    args: form
    require: [{ name: amount, type: integer }]
    optional: [{ name: metadata, type: object }, { name: card.number, secret: true }, { name: "items.*.quantity", type: integer }]
    resource: ["stripe:charge:{args.charge}", "stripe:payment_intent:{args.payment_intent}"]
  - match: { methods: [GET], path: "/v1/charges/{charge}" }
    tool: stripe.charge.retrieve
    args: query
    resource: "stripe:charge:{path.charge}"
  - match: { methods: [GET], path: /v1/charges }
    tool: stripe.charge.list
    args: query
    optional: [{ name: limit, type: integer }]
  - match: { methods: [POST], path: /v2/money }
    tool: stripe.money.move
    args: json
    risk: critical
    optional: [{ name: live, type: boolean }, { name: rate, type: number }]
    resource: "stripe:money:{args.to.account}"
  - match: { methods: [POST, DELETE], path: "/v1/**" }
    tool: stripe.other.write
    risk: medium
`

func mustCompile(t testing.TB, text string) *Set {
	t.Helper()
	s, err := Compile([]Source{{Name: "test.yaml", Data: []byte(text)}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func post(target, contentType, body string) (*Request, []byte) {
	return &Request{
		Method: "POST", Scheme: "https", Authority: "api.stripe.com:443", Host: "api.stripe.com", Target: target,
		Header: map[string][]string{"Content-Type": {contentType}}, ContentLength: int64(len(body)),
	}, []byte(body)
}

func form(body string) (*Request, []byte) {
	return post("/v1/refunds", "application/x-www-form-urlencoded", body)
}

func classes(list []Ambiguity) string {
	var out []string
	for _, a := range list {
		out = append(out, fmt.Sprintf("%s/%d", a.Class, a.Status))
	}
	return strings.Join(out, " ")
}

func TestRefund(t *testing.T) {
	s := mustCompile(t, stripeRules)
	req, body := form("charge=ch_123&amount=4900&currency=usd&metadata[0]=a&expand[]=charge&expand[]=x&items[0][price]=p&items[0][quantity]=2&card[number]=4242")
	m := s.Match(req)
	if m.Rule == nil || !m.NeedBody || m.ErrorShape != "stripe" || m.URL() != "https://api.stripe.com/v1/refunds" || m.Authority() != "api.stripe.com:443" {
		t.Fatalf("%+v", m)
	}
	r := m.Read(body, true)
	if len(r.Ambiguous) > 0 || len(r.Calls) != 1 {
		t.Fatalf("%+v", r)
	}
	c := r.Calls[0]
	if c.Tool != "stripe.refund.create" || c.Risk != RiskHigh || c.Resource != "stripe:charge:ch_123" || c.Rule != (Pos{"test.yaml", 8}) || len(c.Problems) > 0 {
		t.Fatalf("%+v", c)
	}
	want := map[string]any{
		"charge": "ch_123", "amount": int64(4900), "currency": "usd", "metadata": map[string]any{"0": "a"},
		"expand": []any{"charge", "x"}, "items": []any{map[string]any{"price": "p", "quantity": int64(2)}},
		"card": map[string]any{"number": "4242"},
	}
	if d := cmp.Diff(want, c.Args); d != "" {
		t.Fatal(d)
	}
	if d := cmp.Diff([]string{"card.number"}, c.Secret); d != "" {
		t.Fatal(d)
	}
}
