package proxy

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"

	"github.com/elazarl/goproxy"
	"go.uber.org/zap"
)

// newFront is goproxy, used for one thing: taking a CONNECT over from net/http.
// Its own interception, its tunnels, its CA and its forwarding are all shut off
// here, not merely unused: no CONNECT handler that answers nil, no transport
// that can dial, no plain request that gets this far.
func (s *Server) newFront() http.Handler {
	p := goproxy.NewProxyHttpServer()
	p.Logger = quiet{s.log}
	p.CertStore = nil
	none := func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("the front door does not dial")
	}
	p.Tr = &http.Transport{Proxy: nil, DialContext: none, DialTLSContext: none}
	// goproxy has set this from the environment's proxy variables.
	p.ConnectDial = func(string, string) (net.Conn, error) { return nil, errors.New("the front door does not dial") }
	p.ConnectDialWithReq = nil
	p.NonproxyHandler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
	})
	p.OnRequest().DoFunc(func(r *http.Request, _ *goproxy.ProxyCtx) (*http.Request, *http.Response) {
		return r, goproxy.NewResponse(r, goproxy.ContentTypeText, http.StatusForbidden, "")
	})
	action := &goproxy.ConnectAction{Action: goproxy.ConnectHijack, Hijack: s.takeOver}
	p.OnRequest().HandleConnect(goproxy.FuncHttpsHandler(func(host string, _ *goproxy.ProxyCtx) (*goproxy.ConnectAction, string) {
		return action, host
	}))
	return p
}

// exchangeKey is the context key under which a CONNECT passes through goproxy.
type exchangeKey struct{}

// connect hands a CONNECT to goproxy, which hands its connection to takeOver.
func (x *exchange) connect(h head) {
	if x.conn.lint == nil || x.conn.door != "forward" {
		x.unjudged(http.StatusBadRequest, ReasonConnectInside, "A CONNECT is only taken by the forward proxy, and not inside another CONNECT.", h)
		return
	}
	if strings.HasPrefix(x.r.RequestURI, "/") || x.r.ProtoMajor != 1 {
		x.unjudged(http.StatusBadRequest, ReasonConnectInvalid, "A CONNECT names host:port and nothing else.", h)
		return
	}
	c := &connecting{target: x.r.RequestURI, head: h, live: x.live, header: x.r.Header.Clone()}
	r := x.r.WithContext(context.WithValue(x.r.Context(), exchangeKey{}, c))
	x.s.front.ServeHTTP(takeover{x.w, x.conn.doorway}, r)
}

func (s *Server) takeOver(req *http.Request, client net.Conn, _ *goproxy.ProxyCtx) {
	c, _ := req.Context().Value(exchangeKey{}).(*connecting)
	p, _ := client.(*peekedConn)
	if c == nil || p == nil {
		_ = client.Close()
		return
	}
	s.serveConnect(p, c)
}

// quiet lets goproxy's own messages through at debug level only.
type quiet struct{ log *zap.Logger }

func (q quiet) Printf(format string, v ...any) { q.log.Sugar().Debugf(format, v...) }
