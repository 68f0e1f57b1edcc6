package proxy

import (
	"context"
	"net"
	"net/http"
	"time"
)

// Client is for calls of the sidecar's own (a webhook). It dials as calls of
// agents are dialled: only addresses that Upstream lets it, TLS by the same
// roots, by the settings that are in force at the time. It follows no redirect,
// uses no proxy, and decompresses nothing.
func (s *Server) Client() *http.Client {
	current := func() *dialer { return s.live.Load().dialer }
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return current().dial(ctx, addr) },
			DialTLSContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
				return current().dialTLS(ctx, addr, []string{"http/1.1"})
			},
			DisableCompression:     true,
			MaxIdleConnsPerHost:    4,
			MaxResponseHeaderBytes: 64 << 10,
			// Short, so that what a reload forbids is not kept open.
			IdleConnTimeout: 15 * time.Second,
		},
	}
}
