package proxy

import (
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/elazarl/goproxy"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/actpass/sidecar/gate"
)

// BenchmarkIntercepted compares a mapped, judged and recorded call with the
// bare interception of goproxy: same client, same origin, one process. Besides
// the time it reports CPU time of the whole process, client and origin included.
func BenchmarkIntercepted(b *testing.B) {
	const body = "amount=4900&charge=ch_1&metadata[order]=o_1"
	run := func(b *testing.B, client *http.Client) {
		call := func() {
			req, _ := http.NewRequest("POST", "https://api.test/v1/refunds", strings.NewReader(body))
			req.Header.Set("Content-Type", formType)
			resp, err := client.Do(req)
			if err != nil {
				b.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != 200 {
				b.Fatal(resp.Status)
			}
		}
		call()
		b.ReportAllocs()
		var before, after syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before)
		for b.Loop() {
			call()
		}
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
		cpu := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
		b.ReportMetric(float64(cpu.Microseconds())/float64(b.N), "cpu-µs/op")
	}
	answer := func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		rw.Header().Set("Content-Type", "application/json")
		_, _ = rw.Write([]byte(`{"id":"re_1","object":"refund","amount":4900,"status":"succeeded"}`))
	}
	logging := func(_ *world, o *Options) {
		o.Logger = zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(io.Discard), zap.InfoLevel))
	}
	b.Run("actpass", func(b *testing.B) {
		w := newWorld(b, withMode(gate.ModeEnforce), logging)
		w.on(answer)
		run(b, w.client("http/1.1"))
	})
	b.Run("actpass-h2", func(b *testing.B) {
		w := newWorld(b, withMode(gate.ModeEnforce), logging)
		w.on(answer)
		run(b, w.client("h2"))
	})
	b.Run("goproxy", func(b *testing.B) {
		w := newWorld(b)
		w.on(answer)
		p := goproxy.NewProxyHttpServer()
		p.Tr = w.server.live.Load().upstream.pooled.Clone()
		ca := tls.Certificate{Certificate: [][]byte{w.ca.cert.Raw}, PrivateKey: w.ca.key, Leaf: w.ca.cert}
		mitm := &goproxy.ConnectAction{Action: goproxy.ConnectMitm, TLSConfig: goproxy.TLSConfigFromCA(&ca)}
		p.OnRequest().HandleConnect(goproxy.FuncHttpsHandler(func(host string, _ *goproxy.ProxyCtx) (*goproxy.ConnectAction, string) { return mitm, host }))
		front := httptest.NewServer(p)
		b.Cleanup(front.Close)
		c := w.client("http/1.1")
		u, _ := url.Parse(front.URL)
		tr, _ := c.Transport.(*http.Transport)
		tr.Proxy = http.ProxyURL(u)
		b.Cleanup(p.Tr.CloseIdleConnections)
		run(b, c)
	})
}
