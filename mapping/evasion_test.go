package mapping

import (
	"bytes"
	"compress/gzip"
	"strings"
	"testing"
)

// TestEvasions sends POST /v1/refunds in the disguises by which enforcing
// proxies were bypassed. Each must be ambiguous in its class, and be read as no
// softer a call than the undisguised one.
func TestEvasions(t *testing.T) {
	s := mustCompile(t, stripeRules)
	zip := func(parts ...string) string {
		var b bytes.Buffer
		for _, p := range parts {
			w := gzip.NewWriter(&b)
			_, _ = w.Write([]byte(p))
			_ = w.Close()
		}
		return b.String()
	}
	const refund = "charge=ch_1&amount=900000&currency=usd"
	head := func(f func(r *Request)) func() (*Request, []byte) {
		return func() (*Request, []byte) {
			r, b := form(refund)
			f(r)
			return r, b
		}
	}
	target := func(s string) func() (*Request, []byte) { return head(func(r *Request) { r.Target = s }) }
	header := func(name string, values ...string) func() (*Request, []byte) {
		return head(func(r *Request) { r.Header[name] = values })
	}
	authority := func(s string) func() (*Request, []byte) {
		return head(func(r *Request) { r.Authority, r.Host = s, "" })
	}
	body := func(s string) func() (*Request, []byte) { return func() (*Request, []byte) { return form(s) } }
	tests := []struct {
		name string
		make func() (*Request, []byte)
		want string
		soft bool // the reading may be another tool: there is no telling
	}{
		{"lower-case method", head(func(r *Request) { r.Method = "post" }), "method/400", false},
		{"mixed-case method", head(func(r *Request) { r.Method = "Post" }), "method/400", false},
		{"method with a space", head(func(r *Request) { r.Method = "POST " }), "method/400", true},
		{"unknown method", head(func(r *Request) { r.Method = "P0ST" }), "method/400", true},
		{"override header", head(func(r *Request) { r.Method = "GET"; r.Header["X-Http-Method-Override"] = []string{"POST"} }), "method/400", false},
		{"override header 2", header("X-Method-Override", "GET"), "method/400", false},
		{"override header 3", header("X-Http-Method", "GET"), "method/400", false},
		{"override header with underscores", header("X_http_method_override", "GET"), "method/400", false},
		{"override in the query", head(func(r *Request) { r.Method = "GET"; r.Target += "?_method=post" }), "method/400 source/400", true},
		{"override in the form", body(refund + "&_method=DELETE"), "method/400", false},

		{"dot segment", target("/v1/charges/../refunds"), "path/400", false},
		{"single dot", target("/v1/./refunds"), "path/400", false},
		{"encoded dots", target("/v1/charges/%2e%2E/refunds"), "path/400 path/400", false},
		{"half encoded dots", target("/v1/charges/.%2e/refunds"), "path/400 path/400", false},
		{"dots with parameters", target("/v1/charges/..;x=1/refunds"), "path/400 path/400", false},
		{"dots behind an encoded slash", target("/v1/charges/..%2Frefunds"), "path/400 path/400", false},
		{"overlong dots", target("/v1/charges/%c0%ae%c0%ae/refunds"), "path/400", false},
		{"encoded slash", target("/v1%2Frefunds"), "path/400", false},
		{"encoded backslash", target("/v1%5Crefunds"), "path/400", false},
		{"backslash", target("/v1\\refunds"), "path/400", false},
		{"double slash", target("/v1//refunds"), "path/400", false},
		{"leading double slash", target("//v1/refunds"), "path/400", false},
		{"fragment", target("/v1/refunds#/charges"), "path/400", false},
		{"fragment before a query", target("/v1/refunds#?x=1"), "path/400", false},
		{"NUL", target("/v1/refunds%00.json"), "path/400", false},
		{"raw control byte", target("/v1/refunds\x01"), "path/400", false},
		{"encoded newline", target("/v1/refunds%0a"), "path/400", false},
		{"raw non-ASCII", target("/v1/refunds/\xc3\xa9/.."), "path/400 path/400", false},
		{"encoded letter", target("/v1/%72efunds"), "path/400", false},
		{"double encoding", target("/v1/%2572efunds"), "path/400", false},
		{"double encoded dots", target("/v1/charges/%252e%252e/refunds"), "path/400", false},
		{"bad escape", target("/v1/refunds/%zz/.."), "path/400 path/400", false},
		{"cut escape", target("/v1/refunds%"), "path/400", true},
		{"segment parameters", target("/v1/refunds;jsessionid=1"), "path/400", false},
		{"upper case", target("/V1/Refunds"), "path/400", false},
		{"upper case at the end", target("/v1/REFUNDS"), "path/400", false},
		{"trailing slash", target("/v1/refunds/"), "path/400", false},
		{"upper case and trailing slash", target("/v1/Refunds/"), "path/400", false},
		{"absolute form", target("https://api.stripe.com/v1/refunds"), "path/400 path/400", true},
		{"no slash", target("v1/refunds"), "path/400", false},
		{"empty target", target(""), "path/400", true},
		{"asterisk", target("*"), "path/400", true},

		{"trailing dot", authority("api.stripe.com."), "authority/400", false},
		{"userinfo", authority("allowed.com@api.stripe.com"), "authority/400", false},
		{"userinfo with colon", authority("a:b@api.stripe.com"), "authority/400", false},
		{"port with zero", authority("api.stripe.com:0443"), "authority/400", false},
		{"port with plus", authority("api.stripe.com:+443"), "authority/400", false},
		{"empty port", authority("api.stripe.com:"), "authority/400", false},
		{"large port", authority("api.stripe.com:65979"), "authority/400", false},
		{"full-width dots", authority("api\uff0estripe\uff0ecom"), "authority/400", false},
		{"full-width letters", authority("\uff41pi.stripe.com"), "authority/400", false},
		{"ideographic dot", authority("api\u3002stripe.com"), "authority/400", false},
		{"percent-encoded", authority("%61pi.stripe.com"), "authority/400", false},
		{"backslash in authority", authority("api.stripe.com\\.evil.com"), "authority/400", false},
		{"slash in authority", authority("api.stripe.com/x"), "authority/400", false},
		{"control in authority", authority("api.stripe\x00.com"), "authority/400", false},
		{"space in authority", authority(" api.stripe.com"), "authority/400", false},
		{"soft hyphen", authority("api.str\u00adipe.com"), "authority/400", false},
		{"empty authority", authority(""), "authority/400", true},
		{"other Host", head(func(r *Request) { r.Host = "evil.com" }), "authority/421", false},
		{"Host with other port", head(func(r *Request) { r.Host = "api.stripe.com:8443" }), "authority/421", false},
		{"Host with userinfo", head(func(r *Request) { r.Host = "api.stripe.com@evil.com" }), "authority/400 authority/421", false},
		{"second Host header", header("Host", "evil.com"), "authority/400", false},

		{"semicolon in the query", target("/v1/refunds?a=1;b=2"), "query/400 source/400", false},
		{"bad escape in the query", target("/v1/refunds?a=%zz"), "query/400 source/400", false},
		{"control in the query", target("/v1/refunds?a=\x01"), "query/400 source/400", false},
		{"argument in query and body", target("/v1/refunds?amount=1"), "source/400 source/400", false},

		{"two content types", header("Content-Type", "application/x-www-form-urlencoded", "application/json"), "header/400 content_type/415", false},
		{"content type list", header("Content-Type", "application/x-www-form-urlencoded, application/json"), "content_type/415", false},
		{"other content type", header("Content-Type", "application/json"), "content_type/415", false},
		{"no content type", head(func(r *Request) { delete(r.Header, "Content-Type") }), "content_type/415", false},
		{"charset", header("Content-Type", "application/x-www-form-urlencoded; charset=utf-7"), "content_type/415", false},
		{"content type with underscore", header("Content_type", "application/json"), "header/400", false},
		{"two idempotency keys", header("Idempotency-Key", "a", "b"), "header/400", false},
		{"two authorizations", header("Authorization", "a", "b"), "header/400", false},
		{"control in a header", header("X-Y", "a\rb"), "header/400", false},
		{"other content length", header("Content-Length", "4"), "header/400", false},
		{"brotli", header("Content-Encoding", "br"), "encoding/415", false},
		{"two encodings", header("Content-Encoding", "gzip, gzip"), "encoding/415", false},
		{"no gzip", header("Content-Encoding", "gzip"), "encoding/415", false},
		{"gzip with a second member", func() (*Request, []byte) {
			r, b := form(zip(refund, "&amount=1"))
			r.Header["Content-Encoding"] = []string{"gzip"}
			return r, b
		}, "encoding/415", false},
		{"gzip bomb", func() (*Request, []byte) {
			r, b := form(zip(strings.Repeat("a=1&", 8<<20)))
			r.Header["Content-Encoding"] = []string{"gzip"}
			return r, b
		}, "encoding/413", false},
		{"upgrade with a form", head(func(r *Request) { r.Upgrade = "websocket" }), "header/400", false},

		{"amount twice", body("amount=1&amount=900000"), "duplicate/400", false},
		{"amount twice, encoded", body("amount=1&a%6dount=900000"), "duplicate/400", false},
		{"amount and amount[]", body("amount=1&amount[]=900000"), "duplicate/400", false},
		{"amount[] and amount", body("amount[]=900000&amount=1"), "duplicate/400", false},
		{"amount and amount[x]", body("amount=1&amount[x]=2"), "duplicate/400", false},
		{"nested twice", body("amount=1&card[number]=1&card[number]=2"), "duplicate/400", false},
		{"nested and scalar", body("amount=1&card[number]=1&card=2"), "duplicate/400", false},
		{"list and index", body("amount=1&x[]=1&x[0]=2"), "duplicate/400", false},
		{"case variant", body("amount=1&Amount=900000"), "duplicate/400 duplicate/400", false},
		{"only the case variant", body("charge=ch_1&AMOUNT=900000"), "duplicate/400", false},
		{"nested case variant", body("amount=1&card[number]=1&card[Number]=2"), "duplicate/400 duplicate/400", false},
		{"dotted", body("amount=1&card.number=2"), "duplicate/400", false},
		{"semicolon", body("amount=1;amount=900000"), "body/400", false},
		{"bad escape in the form", body("amount=1&x=%z"), "body/400", false},
		{"bad UTF-8", body("amount=1&x=%ff"), "body/400", false},
		{"raw bad UTF-8", body("amount=1&x=\xff"), "body/400", false},
		{"control byte", body("amount=1\n&x=1"), "body/400", false},
		{"NUL in a value", body("amount=1&x=a%00b"), "body/400", false},
		{"control in a name", body("amount=1&x%0a=1"), "body/400", false},
		{"space before a name", body("amount=1&+amount=900000"), "body/400 duplicate/400 duplicate/400", false},
		{"empty name", body("amount=1&=2"), "body/400", false},
		{"no equals sign", body("amount=1&x"), "body/400", false},
		{"open bracket", body("amount=1&x[a=1"), "body/400", false},
		{"close bracket", body("amount=1&x]=1"), "body/400", false},
		{"text behind brackets", body("amount=1&x[a]b=1"), "body/400", false},
		{"nested open bracket", body("amount=1&x[a[b]]=1"), "body/400", false},
		{"bracket first", body("amount=1&[x]=1"), "body/400", false},
		{"empty brackets inside", body("amount=1&x[][a]=1"), "body/400", false},
		{"deep brackets", body("amount=1&x" + strings.Repeat("[a]", 10_000) + "=1"), "body/400", false},
		{"many fields", body(strings.Repeat("a=1&", 10_001)), "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req, body := tt.make()
			r := s.Match(req).Read(body, true)
			got := classes(r.Ambiguous)
			if tt.name == "many fields" {
				if !strings.HasSuffix(got, "body/413") {
					t.Fatalf("got %s", got[max(0, len(got)-100):])
				}
				return
			}
			if got != tt.want {
				t.Errorf("got %q, want %q: %+v", got, tt.want, r.Ambiguous)
			}
			if len(r.Calls) != 1 {
				t.Fatalf("calls: %+v", r.Calls)
			}
			if c := r.Calls[0]; !tt.soft && c.Tool != "stripe.refund.create" {
				t.Errorf("read as %s %s", c.Tool, c.Resource)
			}
			for _, a := range r.Ambiguous {
				if strings.IndexFunc(a.Detail, func(r rune) bool { return r < ' ' || r > '~' }) >= 0 {
					t.Errorf("detail %q is not safe to show", a.Detail)
				}
			}
		})
	}
}

func TestUnreadBody(t *testing.T) {
	s := mustCompile(t, stripeRules)
	req, body := form("amount=1")
	r := s.Match(req).Read(body, false)
	if classes(r.Ambiguous) != "body/413" || r.Calls[0].Tool != "stripe.refund.create" {
		t.Fatalf("%+v", r)
	}
}

// TestOrdinary holds the requests that must not be called ambiguous.
func TestOrdinary(t *testing.T) {
	s := mustCompile(t, stripeRules)
	tests := []struct {
		name     string
		change   func(r *Request)
		tool     string
		resource string
	}{
		{"plain", func(*Request) {}, "stripe.refund.create", "stripe:charge:ch_1"},
		{"upper-case host", func(r *Request) { r.Host = "API.Stripe.com" }, "stripe.refund.create", "stripe:charge:ch_1"},
		{"host with port", func(r *Request) { r.Host = "api.stripe.com:443" }, "stripe.refund.create", "stripe:charge:ch_1"},
		{"charset", func(r *Request) {
			r.Header["Content-Type"] = []string{"Application/X-WWW-Form-Urlencoded; charset=UTF-8"}
		}, "stripe.refund.create", "stripe:charge:ch_1"},
		{"content length", func(r *Request) { r.Header["Content-Length"] = []string{"20"} }, "stripe.refund.create", "stripe:charge:ch_1"},
		{"unknown path", func(r *Request) { r.Target = "/v1/Other_Thing/x%20y/" }, "stripe.other.write", "https://api.stripe.com/v1/Other_Thing/x%20y/"},
		{"catch-all", func(r *Request) { r.Target = "/v1/other" }, "stripe.other.write", "https://api.stripe.com/v1/other"},
		{"other port", func(r *Request) { r.Authority, r.Host = "api.stripe.com:8443", "" }, "http.post", "https://api.stripe.com:8443/v1/refunds"},
		{"other host", func(r *Request) { r.Authority, r.Host = "example.com", "" }, "http.post", "https://example.com/v1/refunds"},
		{"unicode host", func(r *Request) { r.Authority, r.Host = "b\u00fccher.example", "xn--bcher-kva.example" }, "http.post", "https://xn--bcher-kva.example/v1/refunds"},
		{"IPv6", func(r *Request) { r.Authority, r.Host = "[2001:db8::1]:8443", "" }, "http.post", "https://[2001:db8::1]:8443/v1/refunds"},
		{"retrieve", func(r *Request) { r.Method, r.Target, r.ContentLength = "GET", "/v1/charges/ch_1AbC?expand[]=x", 0 }, "stripe.charge.retrieve", "stripe:charge:ch_1AbC"},
		{"options", func(r *Request) { r.Method, r.Target, r.ContentLength = "OPTIONS", "*", 0 }, "http.options", "https://api.stripe.com/*"},
		{"encoded id", func(r *Request) { r.Method, r.Target, r.ContentLength = "GET", "/v1/charges/a%3Ab", 0 }, "stripe.charge.retrieve", "stripe:charge:a%3Ab"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req, body := form("charge=ch_1&amount=1")
			tt.change(req)
			m := s.Match(req)
			if !m.NeedBody {
				body = nil
			}
			r := m.Read(body, m.NeedBody)
			if len(r.Ambiguous) > 0 {
				t.Errorf("ambiguous: %+v", r.Ambiguous)
			}
			if c := r.Calls[0]; c.Tool != tt.tool || c.Resource != tt.resource {
				t.Errorf("got %s %s", c.Tool, c.Resource)
			}
		})
	}
}
