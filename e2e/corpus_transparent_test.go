package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/actpass/sidecar/mapping/corpus"
)

// dial connects from inside the pod to an address that everybody outside has,
// and the redirect leads to the sidecar.
func (p *pod) dial(addr string) (conn net.Conn, err error) {
	p.in(func() { conn, err = net.DialTimeout("tcp", addr, patience) })
	return conn, err
}

// transparentPassages are the ways into the door that no client knows of: what is
// dialled is an address on port 443 or 80, and only the bytes name a host.
func transparentPassages(p *pod) []passage {
	outside := func(t testing.TB, port string) net.Conn {
		t.Helper()
		c, err := p.dial("203.0.113.10:" + port)
		must(t, err)
		return c
	}
	carries := carriesH1(corpus.Transparent)
	raw := func(_ *sidecar, conn any, c corpus.Case) (reply, error) {
		return askRaw(conn, c.Bytes(corpus.Transparent, "", ""))
	}
	return []passage{
		{
			name: "transparent-tls-h1", door: "transparent", carries: carries, send: raw,
			open: func(t testing.TB, sc *sidecar, authority string) any {
				return newH1(sc.handshake(t, outside(t, "443"), authority, "http/1.1"))
			},
		},
		{
			name: "transparent-tls-h2", door: "transparent", send: askH2,
			carries: func(c corpus.Case) bool { return c.At(corpus.Transparent) && c.Carrier != corpus.H1 },
			open: func(t testing.TB, sc *sidecar, authority string) any {
				return newH2(t, sc.handshake(t, outside(t, "443"), authority, "h2"))
			},
		},
		{
			name: "transparent-plain", door: "transparent", send: raw,
			carries: func(c corpus.Case) bool { return carries(c) && c.Name != "control/host-with-port" }, // it names port 443
			open:    func(t testing.TB, _ *sidecar, _ string) any { return newH1(outside(t, "80")) },
		},
	}
}

// onlyName are the cases whose Host is no second name where nothing but it names
// a host: the call is judged as one to it, and would be sent there and nowhere else.
var onlyName = map[string]string{ // to the authority that is judged
	"authority/other": "evil.example:80", "authority/subdomain": "api.stripe.com.evil.example:80", "authority/port-http": "api.stripe.com:80",
	"authority/a-label": "xn--pi-7kc.stripe.com:80", "authority/underscore-prefix": "_api.stripe.com:80", "authority/loopback": "127.0.0.1:80",
	"authority/loopback-v6": "[::1]:80", "authority/compatible": "[::7f00:1]:80", "authority/nat64": "[64:ff9b::7f00:1]:80", "authority/6to4": "[2002:7f00:1::]:80",
	"authority/teredo": "[2001:0:4136:e378:8000:63bf:80ff:fffe]:80", "authority/metadata": "169.254.169.254:80", "authority/metadata-name": "metadata.google.internal:80",
	"authority/cgnat": "100.64.0.1:80", "authority/unspecified": "0.0.0.0:80", "authority/localhost": "localhost:80",
}

// judgedAs says what is wrong with the result of a case that is judged by its own
// name, and denied.
func judgedAs(r result, e *event, authority string) (problems []string) {
	if r.conns != 0 || r.bytes != 0 || len(r.upstream) != 0 {
		problems = append(problems, fmt.Sprintf("THE UPSTREAM SAW IT: %d connections, %d bytes, %+v", r.conns, r.bytes, r.upstream))
	}
	if r.status != http.StatusForbidden || e == nil || e.Decision != "deny" || e.Outcome.State != "blocked" || e.Request.Authority != authority || e.ReasonCode != r.header.Get("ActPass-Reason") {
		problems = append(problems, "want it judged as "+authority+" and denied")
	}
	return problems
}

// TestCorpusThroughTheTransparentDoor is TestCorpusThroughEveryDoor for the one
// that needs a network namespace, under the same rules.
func TestCorpusThroughTheTransparentDoor(t *testing.T) {
	cases := loadCorpus(t)
	for i, name := range []string{"tls-h1", "tls-h2", "plain"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pod := newPod(t)
			var u *upstream
			pod.in(func() { u = newPlainUpstream(t, corpusHosts) })
			sc := corpusSidecar(t, "enforce", u)
			pod.serve(sc, u)
			t.Cleanup(sc.stop)
			sc.admin = pod.key(sc)
			sc.http = &http.Client{Transport: &http.Transport{
				DialContext: func(_ context.Context, _, addr string) (net.Conn, error) { return pod.dial(addr) },
			}}
			p := transparentPassages(pod)[i]
			began := time.Now()
			results, good := drive(t, p, sc, u, cases)
			took := time.Since(began)
			checkEvents(t, sc, p, results, good, func(r result, e *event) {
				problems := enforced(r, e)
				if authority := onlyName[r.Name]; authority != "" && p.name == "transparent-plain" {
					problems = judgedAs(r, e, authority)
				}
				for _, problem := range problems {
					t.Errorf("%s (%s): %s\n  %s\n  event %+v", r.Name, r.Why, problem, r.reply, e)
				}
			})
			if len(results) < 500 {
				t.Errorf("only %d cases", len(results))
			}
			t.Logf("%d cases in %v", len(results), took)
		})
	}
}
