package proxy

import (
	"net/http"
	"strings"
	"testing"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// door is one way to send the same call.
type door struct {
	name  string
	proto string
	send  func(w *world, method, path, body string, headers ...string) reply
}

func doors() []door {
	via := func(base string, protos ...string) func(*world, string, string, string, ...string) reply {
		return func(w *world, method, path, body string, headers ...string) reply {
			return w.do(w.client(protos...), method, base+path, body, headers...)
		}
	}
	return []door{
		{"forward", "HTTP/1.1", via("http://api.test")},
		{"connect h1", "HTTP/1.1", via("https://api.test", "http/1.1")},
		{"connect h2", "HTTP/2.0", via("https://api.test", "h2", "http/1.1")},
		{"reverse path", "HTTP/1.1", func(w *world, method, path, body string, headers ...string) reply {
			return w.do(&http.Client{Transport: closing(w)}, method, "http://"+w.reverse+"/stripe"+path, body, headers...)
		}},
		{"reverse host", "HTTP/1.1", func(w *world, method, path, body string, headers ...string) reply {
			c := &http.Client{Transport: hosted{"stripe.localhost", closing(w)}}
			return w.do(c, method, "http://"+w.reverse+path, body, headers...)
		}},
	}
}

type hosted struct {
	host string
	http.RoundTripper
}

func (h hosted) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Host = h.host
	return h.RoundTripper.RoundTrip(r)
}

func closing(w *world) *http.Transport {
	t := &http.Transport{DisableCompression: true}
	w.t.Cleanup(t.CloseIdleConnections)
	return t
}

// Every door gives the same call the same verdict, forwards it byte for byte,
// or shows the upstream nothing at all.
func TestEveryDoorLeadsToTheSameCheck(t *testing.T) {
	for _, d := range doors() {
		t.Run(d.name, func(t *testing.T) {
			w := newWorld(t)
			got := d.send(w, "POST", "/v1/refunds", "amount=4900&charge=ch_1", "Content-Type", formType, "Idempotency-Key", "k1", "ActPass-User", "u1", "X-Odd", "v")
			if got.status != 200 || got.proto != d.proto {
				t.Fatalf("allowed call: %d %s %s", got.status, got.proto, got.body)
			}
			seen := got.json(t)
			if seen["uri"] != "/v1/refunds" || seen["host"] != "api.test" || seen["body"] != "amount=4900&charge=ch_1" || seen["length"] != float64(23) || seen["method"] != "POST" {
				t.Errorf("the upstream saw %v", seen)
			}
			h, _ := seen["header"].(map[string]any)
			for _, want := range []string{"Idempotency-Key", "X-Odd"} {
				if h[want] == nil {
					t.Errorf("%s did not reach the upstream: %v", want, h)
				}
			}
			for _, name := range []string{"Actpass-User", "Via", "X-Forwarded-For", "Connection", "Proxy-Connection"} {
				if h[name] != nil {
					t.Errorf("%s reached the upstream", name)
				}
			}
			if got.header.Get("ActPass-Decision") != "allow" || got.header.Get("ActPass-Reason") != "refund.small_in_scope" {
				t.Errorf("headers %v", got.header)
			}
			e := w.trail.last(t)
			if e.ID != got.header.Get("ActPass-Evidence") || e.UserID != "u1" || e.Tool != "stripe.refund.create" || e.Outcome == nil || e.Outcome.State != evidence.StateForwarded || e.Outcome.Status != 200 {
				t.Errorf("event %+v, outcome %+v", e, e.Outcome)
			}
			if want := strings.Fields(d.name)[0]; e.Door != want {
				t.Errorf("door %q, want %q", e.Door, want)
			}
		})
		t.Run(d.name+" refused", func(t *testing.T) {
			w := newWorld(t)
			got := d.send(w, "POST", "/v1/refunds", "amount=90000&charge=ch_1", "Content-Type", formType)
			if got.status != 403 {
				t.Fatalf("denied call: %d %s", got.status, got.body)
			}
			e, _ := got.json(t)["error"].(map[string]any)
			if e["code"] != "refund.over_limit" || e["message"] == "" || e["type"] != "invalid_request_error" {
				t.Errorf("not Stripe's shape: %s", got.body)
			}
			if a, _ := e["actpass"].(map[string]any); a["decision"] != "deny" || a["evidence_event_id"] != got.header.Get("ActPass-Evidence") {
				t.Errorf("no decision object: %s", got.body)
			}
			for name, want := range map[string]string{"ActPass-Decision": "deny", "ActPass-Reason": "refund.over_limit", "Stripe-Should-Retry": "false", "X-Should-Retry": "false"} {
				if got.header.Get(name) != want {
					t.Errorf("%s: %q, want %q", name, got.header.Get(name), want)
				}
			}
			w.untouched()
		})
		t.Run(d.name+" monitored", func(t *testing.T) {
			w := newWorld(t, withMode(gate.ModeMonitor))
			got := d.send(w, "POST", "/v1/refunds", "amount=90000&charge=ch_1", "Content-Type", formType)
			if got.status != 200 || got.header.Get("ActPass-Decision") != "deny" || w.originReqs.Load() != 1 {
				t.Errorf("monitored call: %d %v", got.status, got.header)
			}
		})
		t.Run(d.name+" held", func(t *testing.T) {
			w := newWorld(t)
			got := d.send(w, "POST", "/v1/refunds", "amount=9000&charge=ch_1", "Content-Type", formType)
			if got.status != 503 || got.header.Get("Retry-After") == "" || !strings.HasPrefix(got.header.Get("ActPass-Approval"), "apr_") ||
				got.header.Get("Stripe-Should-Retry") != "true" || got.header.Get("X-Should-Retry") != "true" || got.header.Get("ActPass-Reason") != "refund.medium_needs_approval" {
				t.Errorf("held call: %d %v", got.status, got.header)
			}
			w.untouched()
		})
	}
}

func TestProblemDetails(t *testing.T) {
	w := newWorld(t)
	got := w.do(w.client(), "DELETE", "https://api.test/v1/things", "")
	if got.status != 403 || got.header.Get("Content-Type") != "application/problem+json" {
		t.Fatalf("%d %v %s", got.status, got.header, got.body)
	}
	m := got.json(t)
	for _, k := range []string{"type", "title", "status", "detail", "decision", "reason_code", "risk_tier", "explain", "evidence_event_id", "tool", "resource", "mode", "enforcement"} {
		if m[k] == nil {
			t.Errorf("%s is missing: %s", k, got.body)
		}
	}
	w.untouched()
}

func TestRefusalOfHead(t *testing.T) {
	w := newWorld(t, func(w *world, _ *Options) { w.rules.Mode = gate.ModeStrict })
	for _, protos := range [][]string{{"http/1.1"}, {"h2"}} {
		got := w.do(w.client(protos...), "HEAD", "https://api.test/v1/refunds%2f", "")
		if got.status != 400 || got.body != "" {
			t.Errorf("%v: %d %q", protos, got.status, got.body)
		}
	}
	w.untouched()
}
