package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// payments is a service with one unary method, and its descriptor set.
func payments(t testing.TB) (protoreflect.MessageDescriptor, []byte) {
	t.Helper()
	field := func(name string, n int32, typ descriptorpb.FieldDescriptorProto_Type) *descriptorpb.FieldDescriptorProto {
		return &descriptorpb.FieldDescriptorProto{Name: &name, Number: &n, Type: &typ, Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum()}
	}
	set := &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{{
		Name: proto.String("pay.proto"), Package: proto.String("pay"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{Name: proto.String("Refund"), Field: []*descriptorpb.FieldDescriptorProto{
			field("amount", 1, descriptorpb.FieldDescriptorProto_TYPE_INT64), field("currency", 2, descriptorpb.FieldDescriptorProto_TYPE_STRING),
		}}},
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: proto.String("Refunds"), Method: []*descriptorpb.MethodDescriptorProto{
			{Name: proto.String("Create"), InputType: proto.String(".pay.Refund"), OutputType: proto.String(".pay.Refund")},
		}}},
	}}}
	data, err := proto.Marshal(set)
	must(t, err)
	files, err := protodesc.NewFiles(set)
	must(t, err)
	d, err := files.FindDescriptorByName("pay.Refund")
	must(t, err)
	return d.(protoreflect.MessageDescriptor), data
}

// inOrder writes the fields of a message in the order of their numbers, as generated
// messages do. A dynamic one writes them in any, and other bytes are another call.
type inOrder struct{}

func (inOrder) Marshal(v any) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(v.(proto.Message))
}
func (inOrder) Unmarshal(b []byte, v any) error { return proto.Unmarshal(b, v.(proto.Message)) }
func (inOrder) Name() string                    { return "proto" }

// TestGRPCClient is grpc-go against grpc-go: a message that policy allows by its
// amount arrives, and of one that it denies the client learns why and the server
// nothing.
func TestGRPCClient(t *testing.T) {
	t.Parallel()
	const host = "pay.example.test"
	refund, set := payments(t)
	cert, ca := testCertificate(t, []string{host})
	u := &upstream{}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	arrived := make(chan string, 8)
	srv := grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&cert)))
	srv.RegisterService(&grpc.ServiceDesc{ServiceName: "pay.Refunds", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{
		MethodName: "Create",
		Handler: func(_ any, _ context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			m := dynamicpb.NewMessage(refund)
			if err := dec(m); err != nil {
				return nil, err
			}
			arrived <- fmt.Sprint(m.Get(refund.Fields().ByName("amount")).Int())
			return m, nil
		},
	}}}, struct{}{})
	go func() { _ = srv.Serve(countedListener{ln, u}) }()
	t.Cleanup(srv.Stop)

	sc := &sidecar{t: t, dir: t.TempDir()}
	write := func(name string, data []byte) { must(t, os.WriteFile(filepath.Join(sc.dir, name), data, 0o644)) }
	write("upstream-ca.pem", ca)
	write("pay.pb", set)
	write("mapping.yaml", []byte("rules:\n  - { match: { host: "+host+", path: /pay.Refunds/Create }, tool: pay.refund, args: grpc, require: [{ name: amount, type: integer }] }\n"))
	write("policy.yaml", []byte("policies:\n  - name: pay\n    version: 1\n    tools: [pay.*]\n    rules:\n      - { name: small, when: args.amount <= 5000 && args.currency == \"usd\", decision: allow, reason_code: pay.small }\n"+
		"      - { name: medium, when: args.amount <= 50000, decision: require_approval, reason_code: pay.medium }\n"))
	write("config.yaml", []byte(`mode: enforce
identity: { tenant_id: acme, agent_id: support_agent }
listen: { proxy: 127.0.0.1:0, reverse: 127.0.0.1:0, api: 127.0.0.1:0 }
mapping: { packs: [stripe], files: [./mapping.yaml], descriptors: [./pay.pb] }
policy: { files: [./policy.yaml] }
upstream:
  allow_private: [127.0.0.0/8]
  ca_file: ./upstream-ca.pem
  connect_to: [{ host: `+host+`, port: 443, address: "`+ln.Addr().String()+`" }]
`))
	sc.config = filepath.Join(sc.dir, "config.yaml")
	sc.http = &http.Client{Timeout: patience}
	sc.admin = sc.key("--name", "admin", "--role", "admin")
	sc.run()
	t.Cleanup(sc.stop)

	roots := x509.NewCertPool()
	own, err := os.ReadFile(filepath.Join(sc.dir, "data", "ca", "ca.pem"))
	must(t, err)
	roots.AppendCertsFromPEM(own)
	conn, err := grpc.NewClient("passthrough:///"+host+":443",
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: host})),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return connectThrough(ctx, sc.proxy, addr) }))
	must(t, err)
	defer conn.Close()
	call := func(amount int64, opts ...grpc.CallOption) (int64, error) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		in, out := dynamicpb.NewMessage(refund), dynamicpb.NewMessage(refund)
		in.Set(refund.Fields().ByName("amount"), protoreflect.ValueOfInt64(amount))
		in.Set(refund.Fields().ByName("currency"), protoreflect.ValueOfString("usd"))
		err := conn.Invoke(ctx, "/pay.Refunds/Create", in, out, append(opts, grpc.ForceCodec(inOrder{}))...)
		return out.Get(refund.Fields().ByName("amount")).Int(), err
	}
	// First the denied one: not even a connection may be made for it.
	for _, opts := range [][]grpc.CallOption{nil, {grpc.UseCompressor(gzip.Name)}} {
		_, err := call(500_000, opts...)
		if s := status.Convert(err); s.Code() != codes.PermissionDenied || !strings.Contains(s.Message(), "ActPass blocked this call") {
			t.Errorf("denied: %v", err)
		}
	}
	if n := u.conns.Load(); n != 0 {
		t.Errorf("%d connections were made for denied calls", n)
	}
	for _, opts := range [][]grpc.CallOption{nil, {grpc.UseCompressor(gzip.Name)}} {
		if got, err := call(4900, opts...); err != nil || got != 4900 {
			t.Fatalf("allowed: %d, %v", got, err)
		}
		if got := <-arrived; got != "4900" {
			t.Errorf("the server read %s", got)
		}
	}
	if len(arrived) != 0 {
		t.Errorf("%d more calls arrived", len(arrived))
	}
	// One that a human approves while it waits is sent once, and its retry, with less
	// time left, is told the same.
	sent := make(chan error, 1)
	go func() {
		got, err := call(20_000)
		if err == nil && got != 20_000 {
			err = fmt.Errorf("answered with %d", got)
		}
		sent <- err
	}()
	sc.approve(sc.pending())
	if err := <-sent; err != nil {
		t.Errorf("approved: %v", err)
	}
	if got, err := call(20_000); err != nil || got != 20_000 {
		t.Errorf("approved, again: %d, %v", got, err)
	}
	if len(arrived) != 1 {
		t.Fatalf("%d approved calls arrived", len(arrived))
	}
	<-arrived
	// explain reads the same message by the same descriptor.
	in := dynamicpb.NewMessage(refund)
	in.Set(refund.Fields().ByName("amount"), protoreflect.ValueOfInt64(500_000))
	message, err := proto.Marshal(in)
	must(t, err)
	write("frame.bin", append([]byte{0, 0, 0, 0, byte(len(message))}, message...))
	out, code := sc.cli("explain", "POST", "https://"+host+"/pay.Refunds/Create", "-d", "@"+filepath.Join(sc.dir, "frame.bin"), "-H", "Content-Type: application/grpc")
	if code != 1 || !strings.Contains(out, "args.amount = 500000") || !strings.Contains(out, "policy.default") {
		t.Errorf("explain: %d\n%s", code, out)
	}
}

// connectThrough opens a tunnel through the forward proxy.
func connectThrough(ctx context.Context, proxy, addr string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", proxy)
	if err != nil {
		return nil, err
	}
	if err := (&http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: addr}, Host: addr, Header: http.Header{}}).Write(c); err != nil {
		return nil, err
	}
	// Byte by byte: what follows the head belongs to TLS.
	var head []byte
	for one := make([]byte, 1); !strings.HasSuffix(string(head), "\r\n\r\n"); head = append(head, one[0]) {
		if _, err := c.Read(one); err != nil {
			return nil, err
		}
	}
	if !strings.Contains(string(head), " 200 ") {
		return nil, fmt.Errorf("CONNECT: %q", head)
	}
	return c, nil
}
