package web

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// hostAllowed refuses host names that are not this sidecar's. A page of another
// site whose name is made to point here (DNS rebinding) has that name in Host;
// an IP address or a loopback name cannot be rebound.
func (d *Dashboard) hostAllowed(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	return slices.ContainsFunc(d.Hosts(), func(h string) bool { return strings.EqualFold(h, host) })
}

// sameOrigin says whether a form was sent by one of our own pages, as far as the
// browser tells. Browsers send Origin with each POST; what sends neither it nor
// Sec-Fetch-Site is no browser, and has no cookies that another site could use.
func sameOrigin(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		return false
	}
	values := r.Header.Values("Origin")
	if len(values) == 0 {
		return true
	}
	u, err := url.Parse(values[0])
	return len(values) == 1 && err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host)
}

// remote is the address that the connection came from, an IPv6 one as its /64.
func remote(r *http.Request) string {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	addr := ap.Addr().Unmap().WithZone("")
	if p, err := addr.Prefix(64); err == nil && addr.Is6() {
		return p.String()
	}
	return addr.String()
}

const (
	attemptsPerWindow = 10
	attemptWindow     = time.Minute
	maxAddresses      = 1024
)

// attempts counts failed sign-ins per address in fixed windows. As in the API, a
// good key always passes: callers behind one address cannot lock each other out,
// and 256 random bits are not guessed at ten a minute nor at any other rate.
type attempts struct {
	mu   sync.Mutex
	seen map[string]window
}

type window struct {
	since time.Time
	count int
}

func newAttempts() *attempts { return &attempts{seen: map[string]window{}} }

// failed counts one failure, and says how long to wait: 0 within the bound.
func (a *attempts) failed(addr string, now time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, known := a.seen[addr]; !known && len(a.seen) >= maxAddresses {
		for k, w := range a.seen {
			if now.Sub(w.since).Abs() >= attemptWindow {
				delete(a.seen, k)
			}
		}
		if len(a.seen) >= maxAddresses {
			addr = "" // all further addresses share one count
		}
	}
	w := a.seen[addr]
	if now.Sub(w.since).Abs() >= attemptWindow {
		w = window{since: now}
	}
	w.count++
	a.seen[addr] = w
	if w.count <= attemptsPerWindow {
		return 0
	}
	return attemptWindow - now.Sub(w.since)
}
