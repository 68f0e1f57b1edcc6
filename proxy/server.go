// Package proxy is the doors: it takes HTTP in, asks the gate, and sends HTTP
// out. Every door ends in the same handler, and the handler forwards only what
// a gate.Permit holds.
//
//	front listener    absolute-form HTTP; CONNECT, which is intercepted (front.go,
//	                  intercept.go) or tunnelled after a judgement (tunnel.go)
//	reverse listener  /name/path and name.localhost (reverse.go)
//	transparent       connections that the kernel redirects (transparent.go)
//
// Ahead of net/http runs a reader that notes what net/http repairs in silence
// (wirelint.go); behind it, a dialer that dials only addresses it has judged
// (dial.go). goproxy hands over CONNECT requests and does nothing else. A call that
// waits for a human waits apart from net/http (aside.go).
package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/actpass/sidecar/gate"
)

// Gate is what the doors ask of *gate.Gate.
type Gate interface {
	Begin(ctx context.Context, r *gate.Request) (*gate.Waiting, *gate.Permit, *gate.Refusal)
	Check(ctx context.Context, r *gate.Request) (*gate.Permit, *gate.Refusal)
	Reject(ctx context.Context, r *gate.Request, status int, code, detail string) *gate.Refusal
	ModeFor(id gate.Identity) string
	StrictestFor(id gate.Identity, mapped bool) string
	Authenticate(ctx context.Context, secret, agent string) (gate.Identity, error)
	LastKnown(secret, agent string) (gate.Identity, bool)
	ConfigIdentity() gate.Identity
	Fault(kind string, err error)
}

// Options of New. Gate, CA and Logger must be set.
type Options struct {
	Gate   Gate
	CA     *CA
	Logger *zap.Logger
	Settings

	// MaxHeaderBytes bounds a request head; larger ones get 431. Default 64 KiB.
	MaxHeaderBytes int
	// ReadHeaderTimeout bounds how long a request head may take. Default 10 s.
	ReadHeaderTimeout time.Duration
	// IdleTimeout closes connections of agents that ask nothing. Default 2 min.
	IdleTimeout time.Duration
	// PeekTimeout is how long a client may be silent after its CONNECT was
	// answered before the tunnel counts as not inspectable. Default 5 s.
	PeekTimeout time.Duration
	// DialTimeout bounds looking up, connecting, and the TLS handshake, each way.
	// Default 10 s.
	DialTimeout time.Duration
	// ResponseHeaderTimeout bounds the wait for the head of an answer. Default 10
	// min: models think long before they answer.
	ResponseHeaderTimeout time.Duration
	// DistrustFor is how long a host stays uninspected for a client that does not
	// trust the CA (monitor and warn only). Default 10 min.
	DistrustFor time.Duration
	// Registerer takes the metrics; nil: none are kept.
	Registerer prometheus.Registerer
	// Now is the clock of certificates and of distrust. Default time.Now.
	Now func() time.Time
}

// Settings can be changed while the server runs, by Reload.
type Settings struct {
	Routes    []Route
	Intercept Intercept
	Upstream  Upstream
}

// Route is one upstream of the reverse door.
type Route struct {
	Name     string   // a DNS label: the path prefix, and the host below .localhost
	Upstream *url.URL // http or https; a path is put before the request's
}

// Scopes of Intercept.
const (
	ScopeAll    = "all"    // every CONNECT; the default
	ScopeMapped = "mapped" // only hosts that a mapping rule names
)

// Intercept says which CONNECT tunnels are opened for inspection. Those that
// are not are judged as http.connect.
type Intercept struct {
	Scope       string
	Passthrough []string // host globs by label, with an optional port: "*.bank.example", "db.example:5432"
	// Maps says whether a rule may match traffic to a canonical host and port;
	// needed for ScopeMapped. See mapping.Set.MapsHost.
	Maps func(host, port string) bool
}

// Upstream says how upstreams are reached.
type Upstream struct {
	ConnectTo []ConnectTo
	// AllowPrivate are the networks that may be dialled although they are not
	// public. Loopback, link-local and metadata addresses count as not public.
	AllowPrivate []netip.Prefix
	// Mark is set on connections to upstreams (SO_MARK, needs CAP_NET_ADMIN), for
	// redirect rules that let it pass; 0: none.
	Mark uint32
	// RootCAs for upstream TLS; nil: the system's.
	RootCAs *x509.CertPool
}

// ConnectTo sends connections for Host:Port to Address (host:port) instead. The
// TLS name and the Host header stay. Address is subject to AllowPrivate.
type ConnectTo struct {
	Host    string
	Port    int
	Address string
}

// Server is the doors.
type Server struct {
	gate    Gate
	log     *zap.Logger
	opt     Options
	leaves  *leaves
	tls     *tls.Config
	http    *http.Server
	resumed *http.Server // serves what decided hands over; ends after http
	front   http.Handler
	inside  *handoff // intercepted connections on their way to http
	decided *handoff // connections whose held call waits no more, on their way to resumed
	live    atomic.Pointer[live]
	metrics *metrics

	original func(net.Conn) (netip.AddrPort, error) // where a redirected connection was going
	dials    dials                                  // that were made of late
	stopping context.Context
	stop     context.CancelFunc

	distrust *distrust
	tunnels  connSet // connections that http does not know (any more)
	aside    connSet // those of held calls, until their answer

	mu        sync.Mutex
	listeners []netip.AddrPort
	started   bool
	closing   bool
	serving   sync.WaitGroup
}

// live is what Reload swaps: settings, compiled.
type live struct {
	routes      map[string]*route
	names       []string
	intercept   Intercept
	passthrough []hostGlob
	dialer      *dialer
	upstream    *upstreams
}

// New checks the options and makes a server that does not listen yet.
func New(o Options) (*Server, error) {
	if o.Gate == nil || o.CA == nil || o.Logger == nil {
		return nil, errors.New("make proxy: gate, CA and logger must be given")
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&o.ReadHeaderTimeout, 10*time.Second)
	def(&o.IdleTimeout, 2*time.Minute)
	def(&o.PeekTimeout, 5*time.Second)
	def(&o.DialTimeout, 10*time.Second)
	def(&o.ResponseHeaderTimeout, 10*time.Minute)
	def(&o.DistrustFor, 10*time.Minute)
	if o.MaxHeaderBytes <= 0 {
		o.MaxHeaderBytes = 64 << 10
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Server{gate: o.Gate, log: o.Logger, opt: o, inside: newHandoff(), decided: newHandoff(), distrust: newDistrust(o.DistrustFor, o.Now)}
	s.original, s.dials.keep = originalDst, 2*o.PeekTimeout
	s.stopping, s.stop = context.WithCancel(context.Background())
	var err error
	if s.leaves, err = newLeaves(o.CA, o.Now); err != nil {
		return nil, fmt.Errorf("make proxy: %w", err)
	}
	if s.metrics, err = newMetrics(o.Registerer); err != nil {
		return nil, fmt.Errorf("make proxy: %w", err)
	}
	if err := s.Reload(o.Settings); err != nil {
		return nil, err
	}
	s.tls = s.interceptTLS()
	s.front = s.newFront()
	s.http, s.resumed = s.newHTTP(), s.newHTTP()
	if err := s.lintH2(s.http); err != nil {
		return nil, fmt.Errorf("make proxy: %w", err)
	}
	return s, nil
}

func (s *Server) newHTTP() *http.Server {
	o := &s.opt
	return &http.Server{
		Handler:           http.HandlerFunc(s.serveHTTP),
		ReadHeaderTimeout: o.ReadHeaderTimeout,
		IdleTimeout:       o.IdleTimeout,
		// HTTP/1 heads are bounded by the lint; twice that lets the handler record
		// the refusal of an HTTP/2 head that is somewhat too large.
		MaxHeaderBytes:               2 * o.MaxHeaderBytes,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     zap.NewStdLog(o.Logger.WithOptions(zap.IncreaseLevel(zap.ErrorLevel))),
		ConnContext:                  connContext,
		ConnState: func(c net.Conn, st http.ConnState) {
			if lc, ok := c.(*lintConn); ok && st == http.StateIdle {
				lc.idle()
			}
		},
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 250,
			// A client that vanished is noticed, and one that reads nothing is cut.
			SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second,
		},
	}
}

// SetCA signs with another CA from now on. Connections that are open stay.
func (s *Server) SetCA(ca *CA) error { return s.leaves.use(ca) }

// Reload swaps the settings, all of them or, with an error, none. Calls that
// are on their way keep the settings that they began with.
func (s *Server) Reload(set Settings) error {
	l := &live{intercept: set.Intercept}
	switch set.Intercept.Scope {
	case "", ScopeAll:
	case ScopeMapped:
		if set.Intercept.Maps == nil {
			return errors.New("load proxy settings: intercept.scope mapped needs to know what is mapped")
		}
	default:
		return fmt.Errorf("load proxy settings: intercept.scope %q: must be all or mapped", set.Intercept.Scope)
	}
	var err error
	for _, p := range set.Intercept.Passthrough {
		g, err := parseHostGlob(p)
		if err != nil {
			return fmt.Errorf("load proxy settings: intercept.passthrough: %w", err)
		}
		l.passthrough = append(l.passthrough, g)
	}
	if l.routes, l.names, err = compileRoutes(set.Routes); err != nil {
		return fmt.Errorf("load proxy settings: %w", err)
	}
	if l.dialer, err = newDialer(set.Upstream, s.opt.DialTimeout, s.isOurs, &s.dials); err != nil {
		return fmt.Errorf("load proxy settings: upstream.%w", err)
	}
	l.upstream = newUpstreams(l.dialer, s.opt.ResponseHeaderTimeout)
	if old := s.live.Swap(l); old != nil {
		old.upstream.closeIdle()
	}
	return nil
}

// ServeFront serves the forward door on l until Shutdown; it then returns nil.
func (s *Server) ServeFront(l net.Listener) error {
	return s.serveOn(l, gate.DoorForward)
}

// ServeReverse serves the reverse door on l until Shutdown; it then returns nil.
func (s *Server) ServeReverse(l net.Listener) error {
	return s.serveOn(l, gate.DoorReverse)
}

func (s *Server) serveOn(l net.Listener, door gate.Door) error {
	if !s.open(l) {
		return nil
	}
	err := s.http.Serve(&lintListener{Listener: l, server: s, door: door})
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve the %s door on %s: %w", door, l.Addr(), err)
}

// open makes l a door of ours, and serves what doors hand over from the first one
// on. After Shutdown it closes l, and says so.
func (s *Server) open(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		_ = l.Close()
		return false
	}
	if tcp, ok := l.Addr().(*net.TCPAddr); ok {
		s.listeners = append(s.listeners, tcp.AddrPort())
	}
	if !s.started {
		s.started = true
		s.serving.Go(func() { _ = s.http.Serve(s.inside) })
		s.serving.Go(func() { _ = s.resumed.Serve(s.decided) })
	}
	return true
}

// isOurs says whether an address is one of our own listeners: a call sent there
// would come back to us, without end.
func (s *Server) isOurs(ap netip.AddrPort) bool {
	s.mu.Lock()
	ours := slices.Clone(s.listeners)
	s.mu.Unlock()
	for _, l := range ours {
		if l.Port() != ap.Port() {
			continue
		}
		if l.Addr().Unmap() == ap.Addr() {
			return true
		}
		if l.Addr().IsUnspecified() && (ap.Addr().IsUnspecified() || isLocal(ap.Addr())) {
			return true
		}
	}
	return false
}

func isLocal(ip netip.Addr) bool {
	if ip.IsLoopback() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return true // not known: refuse
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap() == ip {
			return true
		}
	}
	return false
}

// Shutdown stops listening and waits until every call is answered and every
// tunnel is closed, or until ctx ends; then it cuts what remains and returns
// ctx's error.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	s.stop()
	err := s.http.Shutdown(ctx)
	if err == nil {
		err = s.aside.wait(ctx)
	}
	if err == nil {
		err = s.resumed.Shutdown(ctx)
	}
	if err == nil {
		err = s.tunnels.wait(ctx)
	}
	if err != nil {
		_ = s.http.Close()
		_ = s.resumed.Close()
	}
	s.inside.close()
	s.decided.close()
	s.aside.closeAll()
	s.tunnels.closeAll()
	s.serving.Wait()
	s.live.Load().upstream.closeIdle()
	return err
}
