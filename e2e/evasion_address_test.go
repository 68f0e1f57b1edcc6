package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const allowAllPolicy = `policies:
  - name: everything
    version: 1
    tools: ["**"]
    rules:
      - { name: any, decision: allow, reason_code: test.any }
`

// startOpen runs a sidecar whose policy allows everything, so that the dialer
// alone stands between an agent and an address. upstream and routes are YAML.
func startOpen(t testing.TB, mode, upstream, routes string) *sidecar {
	t.Helper()
	sc := &sidecar{t: t, dir: t.TempDir()}
	sc.config = filepath.Join(sc.dir, "config.yaml")
	must(t, os.WriteFile(filepath.Join(sc.dir, "policy.yaml"), []byte(allowAllPolicy), 0o644))
	must(t, os.WriteFile(sc.config, []byte("mode: "+mode+`
identity: { tenant_id: acme, agent_id: support_agent }
listen: { proxy: 127.0.0.1:0, reverse: 127.0.0.1:0, api: 127.0.0.1:0 }
mapping: { packs: [stripe] }
policy: { files: [./policy.yaml], default: allow }
upstream: { `+upstream+` }
routes: [`+routes+`]
`), 0o644))
	sc.run()
	sc.admin = sc.key("--name", "admin", "--role", "admin")
	t.Cleanup(sc.stop)
	return sc
}

// Addresses inside are out of reach in every spelling, by every door, even where
// policy allows the call, and in monitor too.
func TestInsideAddressesAreOutOfReach(t *testing.T) {
	for _, mode := range []string{"monitor", "enforce"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			var accepted atomic.Int64
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			must(t, err)
			defer ln.Close()
			go func() {
				for {
					c, err := ln.Accept()
					if err != nil {
						return
					}
					accepted.Add(1)
					_ = c.Close()
				}
			}()
			_, port, _ := net.SplitHostPort(ln.Addr().String())
			sc := startOpen(t, mode,
				fmt.Sprintf(`connect_to: [ { host: pinned.test, port: 80, address: "127.0.0.1:%[1]s" }, { host: named.test, port: 80, address: "localhost:%[1]s" },
  { host: mapped.test, port: 80, address: "[::ffff:127.0.0.1]:%[1]s" }, { host: metadata.test, port: 80, address: "169.254.169.254:80" } ]`, port),
				fmt.Sprintf(`{ name: inside, upstream: "http://127.0.0.1:%s" }, { name: local, upstream: "http://localhost:%s" }, { name: pinned, upstream: "http://pinned.test" }`, port, port))
			hosts := []string{"pinned.test:80", "named.test:80", "mapped.test:80", "metadata.test:80"}
			for _, h := range []string{
				"127.0.0.1", "127.0.0.2", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0x7f.0.0.1", "127.0.0.01", "017700000001", "127.0.0.1.", "0.0.0.0", "0",
				"localhost", "LocalHost", "localhost.", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[::127.0.0.1]",
				"[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[2001:0:4136:e378:8000:63bf:80ff:fffe]", "[::1%25lo]", "[::1%lo]", "[fe80::1]",
				"%31%32%37.0.0.1", "127%2e0%2e0%2e1", "\xef\xbc\x91\xef\xbc\x92\xef\xbc\x97.0.0.1", "127\xe3\x80\x820\xe3\x80\x820\xe3\x80\x821", "\xe2\x91\xa0\xe2\x91\xa1\xe2\x91\xa6.0.0.1",
				"x@127.0.0.1", "127.0.0.1#@stripe.com", "127.0.0.1\\@stripe.com",
			} {
				hosts = append(hosts, h+":"+port)
			}
			for _, h := range []string{
				"169.254.169.254", "169.254.170.2", "[fd00:ec2::254]", "100.100.100.200", "192.0.0.192", "168.63.129.16", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376",
				"169.254.43518", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]", "[2002:a9fe:a9fe::]", "[fe80::a9fe:a9fe]", "10.0.0.1", "172.16.0.1", "192.168.0.1", "255.255.255.255", "[ff02::1]",
			} {
				hosts = append(hosts, h+":80")
			}
			began := time.Now()
			check := func(what string, r reply, err error) {
				t.Helper()
				if err != nil || r.status != 400 && r.status != 403 && r.status != 421 && !(r.gone && strings.HasPrefix(what, "CONNECT")) {
					t.Errorf("%s: %s %v", what, r, err)
					return
				}
				if r.gone {
					return
				}
				if d, err := r.decision(); err != nil || d.Decision != "deny" || d.ReasonCode == "" {
					t.Errorf("%s: decision %+v %v", what, d, err)
				}
			}
			for _, h := range hosts {
				r, err := dialH1(t, sc.proxy).ask(request("GET", "http://"+h+"/latest/meta-data/", h, ""), "GET")
				check("forward "+h, r, err)
				c := dialH1(t, sc.proxy)
				r, err = c.ask([]byte("CONNECT "+h+" HTTP/1.1\r\nHost: "+h+"\r\n\r\n"), "CONNECT")
				if err == nil && r.status == 200 {
					r, err = c.ask(request("GET", "/latest/meta-data/", strings.TrimSuffix(h, ":80"), ""), "GET")
				}
				check("CONNECT "+h, r, err)
				_ = c.Close()
			}
			for _, route := range []string{"inside", "local", "pinned"} {
				r, err := dialH1(t, sc.revers).ask(request("GET", "/"+route+"/x", "x", ""), "GET")
				check("reverse "+route, r, err)
			}
			if n := accepted.Load(); n != 0 {
				t.Errorf("%d connections reached the inside", n)
			}
			if took := time.Since(began); took > 15*time.Second {
				t.Errorf("it took %v: something was dialled", took)
			}
			for _, e := range sc.events() {
				if e.Outcome.State != "refused" {
					t.Errorf("event %+v", e)
				}
			}
		})
	}
}

// A call that is sent to the sidecar through the sidecar would go round for ever.
func TestNoLoopThroughItself(t *testing.T) {
	t.Parallel()
	sc := startOpen(t, "monitor", "allow_private: [127.0.0.0/8]", "")
	for _, own := range []string{sc.proxy, sc.revers} {
		for _, target := range []string{own, strings.Replace(own, "127.0.0.1", "localhost", 1), strings.Replace(own, "127.0.0.1", "[::ffff:127.0.0.1]", 1)} {
			r, err := dialH1(t, sc.proxy).ask(request("GET", "http://"+target+"/x", target, ""), "GET")
			if err != nil || r.status != 403 && r.status != 400 {
				t.Errorf("%s: %s %v", target, r, err)
			}
		}
	}
	if n := len(sc.events()); n != 6 {
		t.Errorf("%d events for 6 calls", n)
	}
}
