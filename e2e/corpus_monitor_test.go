package e2e

import (
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/actpass/sidecar/mapping/corpus"
)

// oracle says whether Go's own server can make a request with a body out of the
// bytes of a case. What it cannot, no mode can let through.
type oracle struct {
	ln    net.Listener
	reads atomic.Int64
}

func newOracle(t testing.TB) *oracle {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	o := &oracle{ln: ln}
	srv := &http.Server{
		ErrorLog: log.New(io.Discard, "", 0), DisableGeneralOptionsHandler: true, MaxHeaderBytes: 64 << 10,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.Copy(io.Discard, r.Body); err == nil {
				o.reads.Add(1)
			}
			w.Header().Set("Connection", "close")
		}),
	}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close() })
	return o
}

func (o *oracle) parses(t testing.TB, raw []byte) bool {
	t.Helper()
	before := o.reads.Load()
	c := dialH1(t, o.ln.Addr().String())
	defer c.Close()
	method, _, _ := strings.Cut(string(raw[:min(len(raw), 32)]), " ")
	_, err := c.ask(raw, method)
	must(t, err)
	return o.reads.Load() > before
}

// noCall are the cases that net/http reads and that still name nothing that
// could be called; and with them every CONNECT to what is no host and port.
var noCall = []string{
	"authority/absolute-other-scheme", "authority/absolute-empty-host", "authority/absolute-no-slashes",
	"method/connect-inside", "method/pri", "path/asterisk",
}

// notForGo are the targets that this test's upstream, a server of net/http, closes
// the connection upon. That they arrive as they came is shown by the proxy's own
// TestRequestOnTheWire.
var notForGo = []string{"path/bad-escape", "path/cut-escape", "path/lone-percent", "path/unicode-escape"}

// TestMonitorForwardsTheCorpus is the other half of the promise: monitor breaks
// nobody. Whatever is a request at all goes on, and the record says what enforce
// would have done.
func TestMonitorForwardsTheCorpus(t *testing.T) {
	cases := slices.DeleteFunc(loadCorpus(t), func(c corpus.Case) bool { return slices.Contains(notForGo, c.Name) })
	for _, p := range passages {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			u := newPlainUpstream(t, corpusHosts)
			sc := startCorpus(t, "monitor", u)
			o := newOracle(t)
			results, good := drive(t, p, sc, u, cases)
			checkEvents(t, sc, p, results, good, func(r result, e *event) {
				fail := func(format string, args ...any) {
					t.Errorf("%s (%s): "+format+"\n  %s\n  upstream %d\n  event %+v", append(append([]any{r.Name, r.Why}, args...), r.reply, len(r.upstream), e)...)
				}
				switch {
				case len(r.upstream) > 1:
					fail("more than one request upstream")
				case r.reset != "" || slices.Contains(answeredByLibrary, r.Name):
					if len(r.upstream) > 0 {
						fail("no answer of ours, and it is upstream")
					}
					return
				case r.opaque():
					return // tunnelled; checkEvents has counted it
				case (r.Name == "connect/host-differs" || r.Name == "connect/trailing-dot") && r.status == http.StatusOK:
					return // the calls inside would be flagged
				case r.gone || e == nil:
					fail("no answer, or no event")
					return
				case e.Outcome.State == "refused":
					if len(r.upstream) > 0 || r.bytes > 0 {
						fail("refused, and it is upstream")
					}
					if r.Class != "connect" && !slices.Contains(noCall, r.Name) && p.name != "connect-tls-h2" && o.parses(t, r.Raw) {
						fail("refused, though net/http reads it")
					}
					return
				}
				// A Host that net/http itself does not take arrives as it came, and is
				// answered by the upstream's server before its handler.
				answered := r.status == http.StatusBadRequest && r.bytes > 0 && strings.Contains(string(r.body), "malformed Host header")
				if len(r.upstream) != 1 && !answered {
					fail("not refused, not upstream")
				}
				if e.Outcome.State != "forwarded" || e.Mode != "monitor" || e.Enforcement != "none" {
					fail("outcome")
				}
				flagged := slices.Contains(e.Flags, "request.ambiguous")
				blocks := e.Would["enforce"] == "block"
				switch r.Expect {
				case corpus.Refuse:
					if !flagged || !blocks {
						fail("want the flag, and that enforce would block")
					}
				case corpus.Canonical:
					if flagged || !blocks {
						fail("want no flag, and that enforce would block")
					}
				case corpus.Either:
					if !blocks {
						fail("want that enforce would block")
					}
				case corpus.Allow:
					if flagged || blocks {
						fail("want no flag, and that enforce would allow")
					}
				}
			})
		})
	}
}
