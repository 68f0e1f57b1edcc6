package api

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/actpass/sidecar/gate"
)

// authenticate finds who calls by `Authorization: Bearer sk_...` (RFC 6750). The
// key is never taken from the URL or a cookie.
//
// A good key always passes: callers behind one address (everything on the
// loopback is) cannot lock each other out by bad keys. What an address can use
// up is only its own 401 answers.
func (s *server) authenticate(r *http.Request) (gate.Identity, error) {
	secret, problem := bearer(r)
	if problem == "" {
		id, err := s.Gate.Authenticate(r.Context(), secret, "")
		switch {
		case err == nil:
			return id, nil
		case errors.Is(err, gate.ErrNotAllowed), errors.Is(err, gate.ErrNotFound):
			problem = "this key is unknown, revoked or expired; make one with `actpass keys create`"
		default:
			return gate.Identity{}, about("key", storeDown, err)
		}
	}
	if wait := s.limiter.failed(remote(r), s.Now()); wait > 0 {
		return gate.Identity{}, &Error{Status: http.StatusTooManyRequests, Code: "too_many_requests", Message: "too many calls from this address without a good key; wait before the next one", RetryAfter: wait}
	}
	return gate.Identity{}, &Error{Status: http.StatusUnauthorized, Code: "unauthenticated", Message: problem}
}

// bearer is the secret, or what is wrong with the header.
func bearer(r *http.Request) (secret, problem string) {
	values := r.Header.Values("Authorization")
	switch len(values) {
	case 0:
		return "", "this call needs a key: send `Authorization: Bearer sk_live_...`"
	case 1:
	default:
		return "", "there is more than one Authorization header; send one"
	}
	scheme, secret, _ := strings.Cut(values[0], " ")
	secret = strings.TrimSpace(secret)
	if !strings.EqualFold(scheme, "Bearer") || !strings.HasPrefix(secret, "sk_") || len(secret) > 256 || !onlyIDChars(secret) {
		return "", "the Authorization header holds no key: send `Authorization: Bearer sk_live_...`"
	}
	return secret, ""
}

// remote is the address that the connection came from; forwarded-for headers
// are claims and are not read. An IPv6 caller is its /64, which is what one
// host usually commands.
func remote(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	addr = addr.Unmap().WithZone("")
	if addr.Is6() {
		if p, err := addr.Prefix(64); err == nil {
			return p.String()
		}
	}
	return addr.String()
}

const (
	failuresPerWindow = 30
	failureWindow     = time.Minute
	maxAddresses      = 4096
)

// limiter counts failed authentications per address in fixed windows.
type limiter struct {
	mu    sync.Mutex
	seen  map[string]*failures
	swept time.Time
}

type failures struct {
	since time.Time
	count int
}

func newLimiter() *limiter { return &limiter{seen: map[string]*failures{}} }

// failed counts one failure and says how long the address should wait: 0 while
// it is within its bound.
func (l *limiter) failed(addr string, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.seen[addr]
	if f == nil {
		if len(l.seen) >= maxAddresses && now.Sub(l.swept).Abs() > time.Second {
			l.sweep(now) // not at each call: it looks at every address
		}
		if len(l.seen) >= maxAddresses {
			addr = "" // all further addresses share one count
			f = l.seen[addr]
		}
		if f == nil {
			f = &failures{since: now}
			l.seen[addr] = f
		}
	}
	if age := now.Sub(f.since); age >= failureWindow || age < 0 {
		f.since, f.count = now, 0
	}
	f.count++
	if f.count <= failuresPerWindow {
		return 0
	}
	return failureWindow - now.Sub(f.since)
}

func (l *limiter) sweep(now time.Time) {
	l.swept = now
	for a, f := range l.seen {
		if age := now.Sub(f.since); age >= failureWindow || age < 0 {
			delete(l.seen, a)
		}
	}
}
