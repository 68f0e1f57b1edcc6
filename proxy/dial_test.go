package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

func TestAddressClasses(t *testing.T) {
	d, err := newDialer(Upstream{}, time.Second, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, ip := range []string{
		"127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "169.254.170.2",
		"100.64.0.1", "100.100.100.200", "192.0.0.192", "168.63.129.16", "::ffff:168.63.129.16", "64:ff9b::a83f:8110", "198.18.0.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
		"::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
		"::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:7f00:1::", "2001:db8::1", "fec0::1",
	} {
		if d.judge(netip.AddrPortFrom(netip.MustParseAddr(ip), 443)) == nil {
			t.Errorf("%s would be dialled", ip)
		}
	}
	for _, ip := range []string{"1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "::ffff:1.1.1.1"} {
		if err := d.judge(netip.AddrPortFrom(netip.MustParseAddr(ip), 443)); err != nil {
			t.Errorf("%s: %v", ip, err)
		}
	}
	allowed, err := newDialer(Upstream{AllowPrivate: []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("168.63.129.16/32"), netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("fd00::/8"),
	}}, time.Second, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for ip, want := range map[string]bool{
		"10.1.2.3": true, "::ffff:10.1.2.3": true, "168.63.129.16": true, "fd00::1": true, "64:ff9b::101:101": true, "64:ff9b::a00:1": true,
		"64:ff9b::7f00:1": false, "127.0.0.1": false, "169.254.169.254": false, "192.168.0.1": false,
	} {
		if got := allowed.judge(netip.AddrPortFrom(netip.MustParseAddr(ip), 443)) == nil; got != want {
			t.Errorf("with allow_private, %s: dialled %v, want %v", ip, got, want)
		}
	}
}

// A name is looked up once, and what is dialled is what was judged.
func TestDialerPinsTheAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	accepted := make(chan struct{}, 10)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- struct{}{}
			_ = c.Close()
		}
	}()
	answers := [][]netip.Addr{
		{netip.MustParseAddr("192.0.2.1")}, // judged first, refused
		{netip.MustParseAddr("127.0.0.1")}, // what a rebinding name says next
	}
	lookups := 0
	d, err := newDialer(Upstream{}, time.Second, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	d.lookup = func(context.Context, string) ([]netip.Addr, error) {
		lookups++
		return answers[(lookups-1)%len(answers)], nil
	}
	for range 2 {
		_, err = d.dial(context.Background(), "rebind.test:"+port)
		var de *dialError
		if !errors.As(err, &de) || de.code != ReasonAddressRefused {
			t.Errorf("%v", err)
		}
	}
	if lookups != 2 || len(accepted) != 0 {
		t.Errorf("%d lookups, %d connections", lookups, len(accepted))
	}
	// Of several addresses only those that pass are dialled.
	ok, err := newDialer(Upstream{AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}, time.Second, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	ok.lookup = func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("10.255.255.1"), netip.MustParseAddr("::ffff:127.0.0.1")}, nil
	}
	c, err := ok.dial(context.Background(), "mixed.test:"+port)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	<-accepted
}

func TestDialerSettings(t *testing.T) {
	for name, u := range map[string]Upstream{
		"no host":    {ConnectTo: []ConnectTo{{"", 443, "127.0.0.1:1"}}},
		"no port":    {ConnectTo: []ConnectTo{{"a.test", 0, "127.0.0.1:1"}}},
		"no address": {ConnectTo: []ConnectTo{{"a.test", 443, "127.0.0.1"}}},
		"twice":      {ConnectTo: []ConnectTo{{"a.test", 443, "127.0.0.1:1"}, {"A.test", 443, "127.0.0.1:2"}}},
		"bad CIDR":   {AllowPrivate: []netip.Prefix{{}}},
	} {
		if _, err := newDialer(u, time.Second, nil, nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// In no mode is a private address dialled that is not listed, and a connect_to
// address is no exception.
func TestPrivateAddressIsRefusedInEveryMode(t *testing.T) {
	for _, mode := range []string{gate.ModeMonitor, gate.ModeWarn, gate.ModeEnforce} {
		w := newWorld(t, withMode(mode), func(_ *world, o *Options) { o.Upstream.AllowPrivate = nil })
		for _, u := range []string{"https://api.test/x", "http://plain.test/x", "http://127.0.0.1:" + portText(w.plain.Listener) + "/x", "http://[::1]:9/x"} {
			got := w.do(w.client(), "GET", u, "")
			if got.status != 403 || got.json(t)["reason_code"] != ReasonAddressRefused || got.header.Get("ActPass-Decision") != "deny" {
				t.Errorf("%s, %s: %d %s", mode, u, got.status, got.body)
			}
			if e := w.trail.last(t); e.Outcome.State != evidence.StateRefused || !strings.Contains(e.Outcome.Error, ReasonAddressRefused) {
				t.Errorf("%s, %s: outcome %+v", mode, u, e.Outcome)
			}
		}
		w.untouched()
	}
}

func TestOwnListenersAreNotDialled(t *testing.T) {
	w := newWorld(t)
	for _, u := range []string{"http://" + w.front + "/x", "http://" + w.reverse + "/stripe/x"} {
		got := w.do(w.client(), "GET", u, "")
		if got.status != 403 || got.json(t)["reason_code"] != ReasonAddressRefused {
			t.Errorf("%s: %d %s", u, got.status, got.body)
		}
	}
	all := &Server{listeners: []netip.AddrPort{netip.MustParseAddrPort("[::]:8080")}}
	if !all.isOurs(netip.MustParseAddrPort("127.0.0.1:8080")) || all.isOurs(netip.MustParseAddrPort("127.0.0.1:8081")) || all.isOurs(netip.MustParseAddrPort("192.0.2.7:8080")) {
		t.Error("a listener on all addresses is not known by each of them")
	}
}

func portText(l net.Listener) string {
	_, p, _ := net.SplitHostPort(l.Addr().String())
	return p
}

// TestSessionsOfUpstreams: the second connection to an upstream goes on with the
// session of the first; a dialer with other roots begins anew, and refuses.
func TestSessionsOfUpstreams(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.TLS.DidResume)
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{originCA.leaf("api.test", "other.test")}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	roots := x509.NewCertPool()
	roots.AddCert(originCA.cert)
	u := Upstream{RootCAs: roots, AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	for _, host := range []string{"api.test", "other.test"} {
		u.ConnectTo = append(u.ConnectTo, ConnectTo{host, 443, srv.Listener.Addr().String()})
	}
	resumed := func(d *dialer, host string) (string, error) {
		c, err := d.dialTLS(t.Context(), host+":443", []string{"http/1.1"})
		if err != nil {
			return "", err
		}
		defer c.Close()
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
		return readReply(t, newReader(c)).body, nil
	}
	d, err := newDialer(u, 2*time.Second, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct{ host, want string }{{"api.test", "false"}, {"api.test", "true"}, {"other.test", "false"}, {"api.test", "true"}} {
		if got, err := resumed(d, c.host); err != nil || got != c.want {
			t.Errorf("%d, %s: resumed %s, want %s, %v", i, c.host, got, c.want, err)
		}
	}
	u.RootCAs = x509.NewCertPool()
	other, err := newDialer(u, 2*time.Second, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	var de *dialError
	if got, err := resumed(other, "api.test"); !errors.As(err, &de) || de.code != ReasonUpstreamCertificate {
		t.Errorf("without the root: %s, %v", got, err)
	}
}

// TestDialTimes: an upstream that says nothing, at either step, is told as late and as
// not sent to; one whose first address is dead is reached at its second.
func TestDialTimes(t *testing.T) {
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mute.Close() })
	u := Upstream{AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("192.0.2.0/24")}}
	d, err := newDialer(u, 300*time.Millisecond, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	// Nobody answers at the first two, in net's own dialer as on a network.
	d.net.ControlContext = func(ctx context.Context, _, address string, _ syscall.RawConn) error {
		if strings.HasPrefix(address, "192.0.2.") {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	hosts := map[string][]netip.Addr{
		"dead.test":  {netip.MustParseAddr("192.0.2.1")},
		"mixed.test": {netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("127.0.0.1")},
		"mute.test":  {netip.MustParseAddr("127.0.0.1")},
	}
	d.lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
		if host == "slow.test" {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return hosts[host], nil
	}
	port := portText(mute)
	for _, host := range []string{"slow.test", "dead.test", "mute.test"} {
		began := time.Now()
		_, err := d.dialTLS(t.Context(), host+":"+port, []string{"http/1.1"})
		var de *dialError
		if !errors.As(err, &de) || de.code != ReasonUpstreamTimeout || !strings.Contains(err.Error(), "no answer within 300ms") {
			t.Errorf("%s: %v", host, err)
		}
		if took := time.Since(began); took < 250*time.Millisecond || took > 5*time.Second {
			t.Errorf("%s: after %s", host, took)
		}
	}
	c, err := d.dial(t.Context(), "mixed.test:"+port)
	if err != nil {
		t.Fatalf("the third address: %v", err)
	}
	_ = c.Close()
	// A caller that leaves is not an upstream that is late.
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	var de *dialError
	if _, err := d.dial(ctx, "dead.test:"+port); !errors.As(err, &de) || de.code != ReasonUpstreamUnreachable {
		t.Errorf("a caller that left: %v", err)
	}
}
