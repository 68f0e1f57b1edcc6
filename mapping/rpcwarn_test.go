package mapping

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestRPCWarnings: a rule that cannot judge what it matches is said to, once, at
// its place; one that can is not.
func TestRPCWarnings(t *testing.T) {
	const head = "hosts: [a.example]\nrules:\n"
	for name, tt := range map[string]struct {
		rules  string
		bare   bool // without a descriptor set
		expect []string
	}{
		"unary and server streaming": {
			rules: `  - { match: { path: "/pay.Refunds/{Create,List}" }, tool: pay.refund, args: grpc, require: [{ name: amount, type: integer }] }`,
		},
		"by name alone": {
			rules: `  - { match: { path: "/pay.Refunds/Create" }, tool: pay.refund, args: grpc }`,
		},
		"streams that pass unread": {
			rules:  `  - { match: { path: "/pay.Refunds/*" }, tool: pay.refund, args: grpc }`,
			expect: []string{"r.yaml:3:5: pay.Refunds/BoundChat, pay.Refunds/BoundUpload, pay.Refunds/Chat and 1 more stream from the client, and the rule of pay.refund declares no arguments: messages pass unread, and policy sees `service` and `method` alone"},
		},
		"each kind of stream under declared arguments": {
			rules: `  - { match: { path: "/pay.Refunds/Bound*" }, tool: pay.bound, args: grpc, optional: [{ name: amount, type: integer }] }`,
			expect: []string{
				"r.yaml:3:5: pay.Refunds/BoundChat streams both ways, and the rule of pay.bound declares arguments: no call is read, and each is refused under enforce and strict",
				"r.yaml:3:5: pay.Refunds/BoundUpload streams from the client, and the rule of pay.bound declares arguments: only a stream of one message is judged, and a longer one is refused under enforce and strict",
			},
		},
		"an earlier rule has them": {
			rules: `  - { match: { path: "/pay.Refunds/{Chat,Upload,BoundChat,BoundUpload}" }, tool: pay.stream, args: none }
  - { match: { path: "/pay.Refunds/{Create,List}" }, tool: pay.one, args: grpc }
  - { match: { path: "/pay.Refunds/Upload", headers: { X-A: "1" } }, tool: pay.some, args: grpc }
  - { match: { path: "/pay.Refunds/*" }, tool: pay.rest, args: grpc }`,
		},
		"a prefix, and any depth": {
			rules: `  - { match: { path: "/api/{tenant}/pay.Refunds/Chat" }, tool: pay.chat, args: grpc }
  - { match: { path: "/**" }, tool: pay.any, args: grpc, optional: [{ name: nonsense }] }`,
			expect: []string{
				"r.yaml:3:5: pay.Refunds/Chat streams from the client, and the rule of pay.chat declares no arguments: messages pass unread, and policy sees `service` and `method` alone",
				"r.yaml:4:5: pay.Refunds/BoundChat streams both ways, and the rule of pay.any declares arguments: no call is read, and each is refused under enforce and strict",
				"r.yaml:4:5: pay.Refunds/BoundUpload and pay.Refunds/Upload stream from the client, and the rule of pay.any declares arguments: only a stream of one message is judged, and a longer one is refused under enforce and strict",
				"r.yaml:4:5: the rule of pay.any declares the argument `nonsense`, and the message of pay.Refunds/BoundChat, pay.Refunds/BoundCreate, pay.Refunds/BoundUpload and 3 more has no field nonsense",
			},
		},
		"no such field": {
			rules:  `  - { match: { path: "/pay.Refunds/Create" }, tool: pay.refund, args: grpc, require: [{ name: amonut, type: integer }, { name: parent.amount, type: integer }, { name: method }] }`,
			expect: []string{"r.yaml:3:5: the rule of pay.refund declares the argument `amonut`, and the message of pay.Refunds/Create has no field amonut"},
		},
		"a method that no set knows": {
			rules:  `  - { match: { path: "/pay.Orders/Create" }, tool: pay.order, args: grpc, require: [{ name: amount, type: integer }] }`,
			expect: []string{"r.yaml:3:5: the rule of pay.order declares arguments, and no set of `mapping.descriptors` knows a method that it matches: messages pass unread, and the arguments are never there"},
		},
		"no set": {
			bare:   true,
			rules:  `  - { match: { path: "/pay.Refunds/Create" }, tool: pay.refund, args: grpc, require: [{ name: amount, type: integer }] }`,
			expect: []string{"r.yaml:3:5: the rule of pay.refund declares arguments, and no set of `mapping.descriptors` knows a method that it matches: messages pass unread, and the arguments are never there"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			opt := Options{Descriptors: []Source{{Name: "pay.pb", Data: refundSet(t)}}}
			if tt.bare {
				opt.Descriptors = nil
			}
			s, err := Compile([]Source{{Name: "r.yaml", Data: []byte(head + tt.rules + "\n")}}, opt)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, w := range s.Warnings() {
				got = append(got, w.Error())
			}
			if d := cmp.Diff(tt.expect, got); d != "" {
				t.Error(d)
			}
		})
	}
}
