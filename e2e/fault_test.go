package e2e

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "modernc.org/sqlite"
)

// TestUpstreamFaults: whatever goes wrong behind the sidecar, the agent reads a
// sentence and the record says what is known.
func TestUpstreamFaults(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	down, err := freeAddress() // nothing listens there
	must(t, err)
	wrong := newUpstream(t) // has a CA that the sidecar does not know
	u.handle(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.RequestURI, "/slow"):
			select {
			case <-r.Context().Done():
			case <-time.After(patience):
			}
		case strings.HasPrefix(r.RequestURI, "/reset-before"):
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_ = conn.Close()
			}
		case strings.HasPrefix(r.RequestURI, "/reset-amid"):
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte("the beginning"))
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
	})
	u.speaking(t, "http/1.1")
	sc := start(t, settings{front: u, upstream: fmt.Sprintf(`    - { host: down.example.test, port: 443, address: %q }
    - { host: wrong.example.test, port: 443, address: %q }
    - { host: private.example.test, port: 443, address: "10.11.12.13:443" }
    - { host: linklocal.example.test, port: 80, address: "169.254.169.254:80" }
  response_timeout: 500ms
  connect_timeout: 2s`, down, wrong.tls), policies: map[string]string{"all.yaml": `policies:
  - { name: all, version: 1, tools: ["*"], rules: [{ name: all, decision: allow, reason_code: test.all }] }
`}})
	for _, c := range []struct {
		name, url string
		status    int
		reason    string
		state     string
		errorHas  string // in the outcome
		sentence  string
	}{
		{"down", "https://down.example.test/x", 502, "request.upstream_unreachable", "refused", "connection refused", "permitted but not sent"},
		{"certificate", "https://wrong.example.test/x", 502, "request.upstream_certificate", "refused", "certificate", "does not hold"},
		{"timeout", "https://echo.example.test/slow", 504, "request.upstream_timeout", "ambiguous", "timeout", "not known"},
		{"reset before the answer", "https://echo.example.test/reset-before", 502, "request.upstream_failed", "ambiguous", "", "not known"},
		{"private address", "https://private.example.test/x", 403, "request.address_refused", "refused", "10.11.12.13", "not sent"},
		{"metadata", "http://linklocal.example.test/latest/meta-data", 403, "request.address_refused", "refused", "169.254.169.254", "not sent"},
		{"metadata by address", "http://169.254.169.254/latest/meta-data", 403, "request.address_refused", "refused", "169.254.169.254", "not sent"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := len(sc.events())
			began := time.Now()
			// A POST: nobody may repeat it.
			a := send(t, sc.proxied(t, false), http.MethodPost, c.url, "text/plain", "hello", nil)
			if took := time.Since(began); took > 8*time.Second {
				t.Errorf("it took %v", took)
			}
			if a.status != c.status || a.header.Get("ActPass-Reason") != c.reason || a.header.Get("Content-Type") != "application/problem+json" {
				t.Fatalf("%d %v %s", a.status, a.header, a.body)
			}
			var p struct {
				Type, Title, Detail string
				Status              int
				Reason              string `json:"reason_code"`
				Event               string `json:"evidence_event_id"`
			}
			must(t, json.Unmarshal(a.body, &p))
			if p.Type != "about:blank" || p.Title == "" || p.Status != c.status || p.Reason != c.reason || !strings.Contains(p.Detail, c.sentence) {
				t.Errorf("problem %+v", p)
			}
			// A refusal is final; an upstream's fault is left to the SDK's own rules.
			if want := map[bool]string{true: "false"}[c.status == http.StatusForbidden]; a.header.Get("X-Should-Retry") != want {
				t.Errorf("X-Should-Retry: want %q: %v", want, a.header)
			}
			events := sc.since(before)
			if len(events) != 1 {
				t.Fatalf("%d events, want one: %+v", len(events), events)
			}
			e := events[0]
			if e.ID != p.Event || e.Outcome.State != c.state || e.Outcome.Status != c.status || !strings.Contains(e.Outcome.Error, c.errorHas) || !strings.Contains(e.Outcome.Error, c.reason) {
				t.Errorf("event %s, outcome %+v", e.ID, e.Outcome)
			}
		})
	}
	t.Run("reset amid the answer", func(t *testing.T) {
		before := len(sc.events())
		a, err := trySend(sc.proxied(t, false), http.MethodPost, "https://echo.example.test/reset-amid", "text/plain", "hello", nil)
		if err == nil {
			t.Errorf("the agent took a part for the whole: %d %q", a.status, a.body)
		}
		events := sc.since(before)
		if len(events) != 1 {
			t.Fatalf("%+v", events)
		}
		if o := events[0].Outcome; o.State != "forwarded" || o.Status != 200 || o.Bytes != int64(len("the beginning")) || !strings.Contains(o.Error, "broke off") {
			t.Errorf("outcome %+v", o)
		}
	})
	for _, s := range u.requestsSeen() {
		if n := count(u.requestsSeen(), s.Target); n != 1 {
			t.Errorf("%s reached the upstream %d times", s.Target, n)
		}
	}
	if seen := wrong.requestsSeen(); len(seen) != 0 {
		t.Errorf("an upstream with a certificate that does not hold was sent %+v", seen)
	}
}

func count(list []seen, target string) (n int) {
	for _, s := range list {
		if s.Target == target {
			n++
		}
	}
	return n
}

// tinyDisk mounts a file system of a few MiB.
func tinyDisk(t testing.TB, dir string) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o700))
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m,mode=0700"); err != nil {
		missing(t, "mounting a small file system needs root: "+err.Error())
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
}

// fill takes all the space that is left, and gives what frees it again.
func fill(t testing.TB, dir string) (free func()) {
	t.Helper()
	name := filepath.Join(dir, "ballast")
	f, err := os.Create(name)
	must(t, err)
	defer f.Close()
	for _, size := range []int{64 << 10, 4 << 10, 1} {
		for {
			if _, err := f.Write(make([]byte, size)); err != nil {
				break
			}
		}
	}
	return func() { must(t, os.Remove(name)) }
}

// TestFullDisk: what cannot be recorded does not leave under enforce; monitor
// never breaks an agent. Both recover by themselves.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"enforce", "monitor"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			u := newUpstream(t)
			sc := idle(t, settings{mode: mode, front: u})
			data := filepath.Join(sc.dir, "data")
			tinyDisk(t, data)
			sc.run()
			sc.admin = sc.key("--name", "admin", "--role", "admin")
			t.Cleanup(sc.stop)
			client := sc.proxied(t, false)
			n := 0
			call := func() answer {
				n++
				return send(t, client, http.MethodPost, fmt.Sprintf("https://echo.example.test/n/%d", n), "text/plain", "hello", nil)
			}
			if a := call(); a.status != 200 {
				t.Fatalf("%d %s", a.status, a.body)
			}
			free := fill(t, data)
			// A page that was not full yet may take a few more records.
			var a answer
			eventually(t, "the disk is full", func() bool {
				seen := len(u.requestsSeen())
				if a = call(); mode == "monitor" {
					if a.status != 200 || len(u.requestsSeen()) != seen+1 {
						t.Fatalf("monitor broke a call: %d %s", a.status, a.body)
					}
					return sc.metric(t, `actpass_faults_total{kind="evidence"}`) > 2
				}
				return a.status == 503
			})
			if mode == "enforce" {
				for range 20 {
					u.quiet(t, "a call that cannot be recorded", func() { a = call() })
					if a.status != 503 || a.header.Get("ActPass-Reason") != "evidence.unavailable" || !strings.Contains(string(a.body), "nothing was sent") {
						t.Fatalf("%d %v %s", a.status, a.header, a.body)
					}
				}
				if sc.metric(t, `actpass_faults_total{kind="evidence"}`) < 20 {
					t.Error("the faults are not counted")
				}
				if status, body := sc.get(t, "/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "evidence") {
					t.Errorf("readyz with a full disk: %d %s", status, body)
				}
			}
			if status, _ := sc.get(t, "/healthz"); status != 200 {
				t.Errorf("healthz with a full disk: %d: a restart would not help", status)
			}
			free()
			before := len(u.requestsSeen())
			if a := call(); a.status != 200 {
				t.Errorf("after space was freed: %d %s", a.status, a.body)
			}
			if got := len(u.requestsSeen()) - before; got != 1 {
				t.Errorf("the upstream saw %d calls", got)
			}
			eventually(t, "it is ready again", func() bool { status, _ := sc.get(t, "/readyz"); return status == 200 })
			last := fmt.Sprintf("/n/%d", n)
			eventually(t, "the call is on record", func() bool {
				events := sc.events()
				e := events[len(events)-1]
				return e.Request.Path == last && e.Outcome.State == "forwarded"
			})
		})
	}
}

// get asks the API's open endpoints.
func (sc *sidecar) get(t testing.TB, path string) (int, string) {
	t.Helper()
	a := send(t, &http.Client{Timeout: 10 * time.Second}, http.MethodGet, "http://"+sc.api+path, "", "", nil)
	return a.status, string(a.body)
}

// metric is the value of one series, 0 if it is not there.
func (sc *sidecar) metric(t testing.TB, series string) float64 {
	t.Helper()
	status, body := sc.get(t, "/metrics")
	if status != 200 {
		t.Fatalf("metrics: %d %s", status, body)
	}
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			var v float64
			_, err := fmt.Sscan(rest, &v)
			must(t, err)
			return v
		}
	}
	return 0
}

// TestStoreFault: limits and approvals that cannot be kept refuse under enforce.
func TestStoreFault(t *testing.T) {
	t.Parallel()
	needStripeMock(t)
	for _, mode := range []string{"enforce", "monitor"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			u := newUpstream(t)
			sc := start(t, settings{mode: mode, front: u, hold: "300ms"})
			mend := sc.breakStore(t)
			allowed := func() answer {
				return doors[1].send(t, sc, "POST", "api.stripe.com", "/v1/refunds", form, refund("4900"), stripeAuth)
			}
			held := func() answer {
				return doors[1].send(t, sc, "POST", "api.stripe.com", "/v1/refunds", form, refund("25000"), stripeAuth)
			}
			if mode == "monitor" {
				for _, ask := range []func() answer{allowed, held} {
					if a := ask(); a.status != 200 {
						t.Errorf("monitor broke a call: %d %s", a.status, a.body)
					}
				}
			} else {
				u.quiet(t, "calls whose limits and approvals cannot be kept", func() {
					if a := allowed(); a.status != 503 || a.header.Get("ActPass-Reason") != "store.unavailable" {
						t.Errorf("%d %v %s", a.status, a.header, a.body)
					}
					if a := held(); a.status != 503 || a.header.Get("ActPass-Reason") != "store.unavailable" {
						t.Errorf("%d %v %s", a.status, a.header, a.body)
					}
				})
				// A read needs neither.
				if a := doors[1].send(t, sc, "GET", "api.stripe.com", "/v1/charges/ch_1", "", "", stripeAuth); a.status != 200 {
					t.Errorf("a read with a broken store: %d %s", a.status, a.body)
				}
			}
			if sc.metric(t, `actpass_faults_total{kind="store"}`) == 0 {
				t.Error("the fault is not counted")
			}
			mend()
			if a := allowed(); a.status != 200 {
				t.Errorf("with the store mended: %d %s", a.status, a.body)
			}
		})
	}
}

// breakStore takes the tables of limits and approvals away from under a running
// sidecar, and gives what puts them back.
func (sc *sidecar) breakStore(t testing.TB) (mend func()) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(sc.dir, "data", "actpass.db")+"?_pragma=busy_timeout(5000)")
	must(t, err)
	t.Cleanup(func() { _ = db.Close() })
	rename := func(from, to string) {
		for _, table := range []string{"limit_uses", "approvals"} {
			_, err := db.Exec("ALTER TABLE " + table + from + " RENAME TO " + table + to)
			must(t, err)
		}
	}
	rename("", "_away")
	return func() { rename("_away", "") }
}

var stripeAuth = http.Header{"Authorization": {"Bearer sk_test_123"}}
