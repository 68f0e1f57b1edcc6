package mapping

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

const protoRules = `
hosts: [a.example]
rules:
  - { match: { path: "/pay.Refunds/Bound*" }, tool: pay.bound, args: grpc, require: [{ name: amount, type: integer }] }
  - { match: { path: "/pay.Refunds/*" }, tool: pay.refund, args: grpc }
`

// refundSet is a descriptor set with one of each kind of field.
func refundSet(t testing.TB) []byte {
	type f = descriptorpb.FieldDescriptorProto
	field := func(name string, n int32, typ descriptorpb.FieldDescriptorProto_Type, more ...func(*f)) *f {
		d := &f{Name: &name, Number: &n, Type: typ.Enum(), Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum()}
		for _, m := range more {
			m(d)
		}
		return d
	}
	many := func(d *f) { d.Label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum() }
	named := func(s string) func(*f) { return func(d *f) { d.TypeName = &s } }
	one := func(d *f) { d.OneofIndex = proto.Int32(0) }
	method := func(name string, client, server bool) *descriptorpb.MethodDescriptorProto {
		return &descriptorpb.MethodDescriptorProto{
			Name: &name, InputType: proto.String(".pay.Refund"), OutputType: proto.String(".pay.Refund"),
			ClientStreaming: &client, ServerStreaming: &server,
		}
	}
	file := &descriptorpb.FileDescriptorProto{
		Name: proto.String("pay.proto"), Package: proto.String("pay"), Syntax: proto.String("proto3"),
		EnumType: []*descriptorpb.EnumDescriptorProto{{Name: proto.String("Reason"), Value: []*descriptorpb.EnumValueDescriptorProto{
			{Name: proto.String("NONE"), Number: proto.Int32(0)}, {Name: proto.String("FRAUD"), Number: proto.Int32(1)},
		}}},
		MessageType: []*descriptorpb.DescriptorProto{
			{
				Name: proto.String("Refund"),
				Field: []*f{
					field("amount", 1, descriptorpb.FieldDescriptorProto_TYPE_INT64),
					field("currency", 2, descriptorpb.FieldDescriptorProto_TYPE_STRING),
					field("reason", 3, descriptorpb.FieldDescriptorProto_TYPE_ENUM, named(".pay.Reason")),
					field("proof", 4, descriptorpb.FieldDescriptorProto_TYPE_BYTES),
					field("parent", 5, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE, named(".pay.Refund")),
					field("lines", 6, descriptorpb.FieldDescriptorProto_TYPE_INT32, many),
					field("labels", 7, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE, many, named(".pay.Refund.LabelsEntry")),
					field("card", 8, descriptorpb.FieldDescriptorProto_TYPE_STRING, one),
					field("iban", 9, descriptorpb.FieldDescriptorProto_TYPE_STRING, one),
					field("big", 10, descriptorpb.FieldDescriptorProto_TYPE_UINT64),
					field("rate", 11, descriptorpb.FieldDescriptorProto_TYPE_DOUBLE),
					field("live", 12, descriptorpb.FieldDescriptorProto_TYPE_BOOL),
					field("method", 13, descriptorpb.FieldDescriptorProto_TYPE_STRING),
					field("small", 14, descriptorpb.FieldDescriptorProto_TYPE_SINT32),
					field("delta", 15, descriptorpb.FieldDescriptorProto_TYPE_INT32),
				},
				OneofDecl: []*descriptorpb.OneofDescriptorProto{{Name: proto.String("to")}},
				NestedType: []*descriptorpb.DescriptorProto{{
					Name: proto.String("LabelsEntry"), Options: &descriptorpb.MessageOptions{MapEntry: proto.Bool(true)},
					Field: []*f{field("key", 1, descriptorpb.FieldDescriptorProto_TYPE_STRING), field("value", 2, descriptorpb.FieldDescriptorProto_TYPE_INT64)},
				}},
			},
		},
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: proto.String("Refunds"), Method: []*descriptorpb.MethodDescriptorProto{
			method("Create", false, false), method("List", false, true), method("Upload", true, false), method("Chat", true, true),
			method("BoundUpload", true, false), method("BoundChat", true, true), method("BoundCreate", false, false),
		}}},
	}
	b, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{file}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func protoSet(t testing.TB) *Set {
	t.Helper()
	s, err := Compile([]Source{{Name: "rules.yaml", Data: []byte(protoRules)}}, Options{Descriptors: []Source{{Name: "pay.pb", Data: refundSet(t)}}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func framed(message string, compressed byte) string {
	return string(binary.BigEndian.AppendUint32([]byte{compressed}, uint32(len(message)))) + message
}

// wire writes a message by hand: number, then int (varint) or string (bytes).
func wire(pairs ...any) string {
	var b []byte
	for i := 0; i < len(pairs); i += 2 {
		n := protowire.Number(pairs[i].(int))
		switch v := pairs[i+1].(type) {
		case int:
			b = protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), uint64(v))
		case string:
			b = protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), v)
		case float64:
			b = protowire.AppendFixed64(protowire.AppendTag(b, n, protowire.Fixed64Type), math.Float64bits(v))
		}
	}
	return string(b)
}

func TestGRPCMessage(t *testing.T) {
	s := protoSet(t)
	body := framed(wire(1, 1<<53+1, 2, "usd", 3, 1, 4, "x", 5, wire(1, -1), 6, "\x01\x02", 6, 3, 7, wire(1, "a", 2, 5), 9, "DE1", 10, 7, 11, 0.5, 12, 1, 13, "m", 14, 3), 0)
	r := readAs(s, kindRequest("POST", "/pay.Refunds/Create", "application/grpc", body), body)
	if len(r.Ambiguous) > 0 || len(r.Calls) != 1 {
		t.Fatalf("%+v", r)
	}
	x := map[string]any{"bytes": int64(1), "sha256": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}
	none := map[string]any{"bytes": int64(0), "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}
	want := map[string]any{
		"service": "pay.Refunds", "method": "Create", "method_": "m", "amount": int64(1<<53 + 1), "currency": "usd", "reason": "FRAUD", "proof": x,
		"parent": map[string]any{
			"amount": int64(-1), "currency": "", "reason": "NONE", "proof": none, "lines": []any{}, "labels": map[string]any{},
			"big": int64(0), "rate": 0.0, "live": false, "method": "", "small": int64(0), "delta": int64(0),
		},
		"lines": []any{int64(1), int64(2), int64(3)}, "labels": map[string]any{"a": int64(5)}, "iban": "DE1", "big": int64(7), "rate": 0.5, "live": true, "small": int64(-2), "delta": int64(0),
	}
	if d := cmp.Diff(want, r.Calls[0].Args); d != "" {
		t.Error(d)
	}
}

func TestGRPCAmbiguous(t *testing.T) {
	s := protoSet(t)
	var z bytes.Buffer
	zw := gzip.NewWriter(&z)
	_, _ = zw.Write([]byte(wire(1, 5)))
	_ = zw.Close()
	var bomb bytes.Buffer
	zw = gzip.NewWriter(&bomb)
	_, _ = zw.Write(make([]byte, 9<<20))
	_ = zw.Close()
	deep := ""
	for range 70 {
		deep = wire(5, deep)
	}
	gz := map[string][]string{"Grpc-Encoding": {"gzip"}}
	for _, c := range []struct {
		name, method, body, want string
		header                   map[string][]string
	}{
		{"one message", "Create", framed(wire(1, 5), 0), "", nil},
		{"gzip", "Create", framed(z.String(), 1), "", gz},
		{"server streaming", "List", framed(wire(1, 5), 0), "", nil},
		{"client streaming, nothing declared", "Upload", framed(wire(1, 5, 1, 6), 0), "", nil},
		{"both ways, nothing declared", "Chat", framed(wire(1, 5, 1, 6), 0), "", nil},
		{"client streaming, one message", "BoundUpload", framed(wire(1, 5), 0), "", nil},
		{"client streaming, two messages", "BoundUpload", framed(wire(1, 5), 0) + framed(wire(1, 5), 0), "body/400", nil},
		{"both ways, declared", "BoundChat", framed(wire(1, 5), 0), "body/400", nil},
		{"unknown method", "Nothing", framed(wire(1, 5, 1, 6), 0), "", nil},
		{"empty", "Create", "", "body/400", nil},
		{"empty message", "Create", framed("", 0), "", nil},
		{"gzip without its header", "Create", framed(z.String(), 1), "encoding/415", nil},
		{"unknown flag", "Create", framed(wire(1, 5), 2), "encoding/415", gz},
		{"snappy", "Create", framed("x", 1), "encoding/415", map[string][]string{"Grpc-Encoding": {"snappy"}}},
		{"two encodings", "Create", framed(wire(1, 5), 0), "encoding/415", map[string][]string{"Grpc-Encoding": {"gzip", "identity"}}},
		{"content encoding", "Create", framed(wire(1, 5), 0), "encoding/415", map[string][]string{"Content-Encoding": {"gzip"}}},
		{"bomb", "Create", framed(bomb.String(), 1), "encoding/413", gz},
		{"json codec", "Create", framed(`{"amount":5}`, 0), "content_type/415", map[string][]string{"Content-Type": {"application/grpc+json"}}},
		{"text", "Create", "AAAAAAA=", "content_type/415", map[string][]string{"Content-Type": {"application/grpc-web-text"}}},
		{"cut", "Create", framed(wire(1, 5), 0)[:6], "body/400", nil},
		{"followed", "Create", framed(wire(1, 5), 0) + "x", "body/400", nil},
		{"scalar twice", "Create", framed(wire(1, 5, 1, 6), 0), "duplicate/400", nil},
		{"message twice", "Create", framed(wire(5, "", 5, ""), 0), "duplicate/400", nil},
		{"nested twice", "Create", framed(wire(5, wire(1, 5, 1, 6)), 0), "duplicate/400", nil},
		{"two of a oneof", "Create", framed(wire(8, "a", 9, "b"), 0), "duplicate/400", nil},
		{"one of a oneof twice", "Create", framed(wire(8, "a", 8, "b"), 0), "duplicate/400", nil},
		{"map key twice", "Create", framed(wire(7, wire(1, "a", 2, 1), 7, wire(1, "a", 2, 2)), 0), "duplicate/400", nil},
		{"key of an entry twice", "Create", framed(wire(7, wire(1, "a", 1, "b", 2, 1)), 0), "duplicate/400", nil},
		{"unknown field", "Create", framed(wire(99, 1), 0), "body/400", nil},
		{"wrong wire type", "Create", framed(wire(1, "5"), 0), "body/400", nil},
		{"enum without a name", "Create", framed(wire(3, 7), 0), "body/400", nil},
		{"enum beyond 32 bits", "Create", framed(wire(3, 1<<32+1), 0), "body/400", nil},
		{"int32 beyond 32 bits", "Create", framed(wire(15, 1<<32+5), 0), "body/400", nil},
		{"negative int32", "Create", framed(wire(15, -5), 0), "", nil},
		{"bool of two", "Create", framed(wire(12, 2), 0), "body/400", nil},
		{"NaN", "Create", framed(wire(11, math.NaN()), 0), "body/400", nil},
		{"bad UTF-8", "Create", framed(wire(2, "\xff"), 0), "body/400", nil},
		{"long varint", "Create", framed("\x08\x85\x00", 0), "body/400", nil},
		{"long tag", "Create", framed("\x88\x00\x05", 0), "body/400", nil},
		{"long length", "Create", framed("\x12\x81\x00a", 0), "body/400", nil},
		{"deep", "Create", framed(deep, 0), "body/400", nil},
		{"a million", "Create", framed(wire(6, strings.Repeat("\x01", 1_000_000)), 0), "body/413", nil},
		{"garbage", "Create", framed("\xff\xff\xff", 0), "body/400", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			req := kindRequest("POST", "/pay.Refunds/"+c.method, "application/grpc", c.body)
			for k, v := range c.header {
				req.Header[k] = v
			}
			r := readAs(s, req, c.body)
			if got := found(r.Ambiguous); got != c.want {
				t.Errorf("%q, want %q: %+v", got, c.want, r.Ambiguous)
			}
			if c.want == "" && len(r.Calls[0].Problems) > 0 {
				t.Errorf("%+v", r.Calls[0].Problems)
			}
		})
	}
}

func found(amb []Ambiguity) string {
	if len(amb) == 0 {
		return ""
	}
	return amb[0].Class + "/" + map[int]string{400: "400", 413: "413", 415: "415"}[amb[0].Status]
}

func TestDescriptorFaults(t *testing.T) {
	good := refundSet(t)
	rules := []Source{{Name: "rules.yaml", Data: []byte(protoRules)}}
	for name, c := range map[string]struct {
		sets []Source
		says string
	}{
		"text":  {[]Source{{Name: "a.pb", Data: []byte("syntax = \"proto3\";")}}, "a.pb"},
		"twice": {[]Source{{Name: "a.pb", Data: good}, {Name: "b.pb", Data: good}}, "another descriptor set"},
		"empty": {[]Source{{Name: "a.pb"}}, "has no service"},
	} {
		if _, err := Compile(rules, Options{Descriptors: c.sets}); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	plain, _ := Compile(rules, Options{})
	if plain.Hash() == protoSet(t).Hash() {
		t.Error("the descriptor set is not part of the hash")
	}
}

// FuzzProtobuf: what is read without an ambiguity is what the Go library reads.
func FuzzProtobuf(f *testing.F) {
	s := protoSet(f)
	var fds descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(refundSet(f), &fds); err != nil {
		f.Fatal(err)
	}
	files, err := protodesc.NewFiles(&fds)
	if err != nil {
		f.Fatal(err)
	}
	d, err := files.FindDescriptorByName("pay.Refund")
	if err != nil {
		f.Fatal(err)
	}
	md := d.(protoreflect.MessageDescriptor)
	for _, seed := range []string{"", wire(1, 5, 2, "usd"), wire(1, 5, 1, 6), wire(5, wire(1, 5), 6, "\x01\x02", 6, 3), wire(8, "a", 9, "b"), wire(7, wire(1, "a", 2, 1)), wire(14, 3, 15, -5, 3, 1, 12, 1), wire(11, 0.5), "\x88\x00\x05"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, message string) {
		body := framed(message, 0)
		r := readAs(s, kindRequest("POST", "/pay.Refunds/Create", "application/grpc", body), body)
		if len(r.Ambiguous) > 0 {
			return
		}
		m := dynamicpb.NewMessage(md)
		if err := proto.Unmarshal([]byte(message), m); err != nil {
			t.Fatalf("%q was read, and the library refuses it: %v", message, err)
		}
		args := r.Calls[0].Args
		get := func(name protoreflect.Name) protoreflect.Value { return m.Get(md.Fields().ByName(name)) }
		if args["amount"] != get("amount").Int() || args["currency"] != get("currency").String() || args["small"] != get("small").Int() ||
			args["delta"] != get("delta").Int() || args["rate"] != get("rate").Float() || args["live"] != get("live").Bool() || args["method_"] != get("method").String() ||
			len(args["lines"].([]any)) != get("lines").List().Len() || len(args["labels"].(map[string]any)) != get("labels").Map().Len() {
			t.Fatalf("%q: %v, and the library reads %v", message, args, m)
		}
		if _, has := args["parent"]; has != m.Has(md.Fields().ByName("parent")) {
			t.Fatalf("%q: parent", message)
		}
		if len(m.GetUnknown()) > 0 {
			t.Fatalf("%q: the library does not know %q", message, m.GetUnknown())
		}
	})
}
