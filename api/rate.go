package api

import (
	"fmt"
	"net/http"
	"sync"
	"time"
)

// maxRated bounds the keys whose use is kept in mind. Only good keys get here,
// so it takes an admin to come near it.
const maxRated = 16384

// rates lets every key have so many calls a second, and twice as many in one
// burst: a token bucket a key. It is in memory and for this process alone.
type rates struct {
	perSecond float64 // 0: no bound

	mu   sync.Mutex
	keys map[string]*bucket
}

type bucket struct {
	left float64
	at   time.Time
}

func newRates(perSecond int) *rates {
	return &rates{perSecond: float64(perSecond), keys: map[string]*bucket{}}
}

// take uses one call of a key and says how long to wait when there is none left.
// A clock that is set back gives nothing.
func (r *rates) take(key string, now time.Time) time.Duration {
	if r == nil || r.perSecond <= 0 {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	burst := 2 * r.perSecond
	b := r.keys[key]
	if b == nil {
		if len(r.keys) >= maxRated {
			r.forget(now)
		}
		b = &bucket{left: burst, at: now}
		r.keys[key] = b
	}
	if passed := now.Sub(b.at); passed > 0 {
		b.left = min(burst, b.left+passed.Seconds()*r.perSecond)
	}
	b.at = now
	if b.left < 1 {
		return time.Duration((1 - b.left) / r.perSecond * float64(time.Second))
	}
	b.left--
	return 0
}

// forget drops the keys that have their whole burst again: a new bucket is the
// same. When every one of so many keys is in use, all start anew.
func (r *rates) forget(now time.Time) {
	for key, b := range r.keys {
		if now.Sub(b.at) > 2*time.Second {
			delete(r.keys, key)
		}
	}
	if len(r.keys) >= maxRated {
		clear(r.keys)
	}
}

func (r *rates) tooMany(wait time.Duration) error {
	return &Error{
		Status: http.StatusTooManyRequests, Code: "too_many_requests", RetryAfter: max(wait, time.Millisecond),
		Message: fmt.Sprintf("this key made more than %g calls a second (limits.api_rate); wait before the next one", r.perSecond),
	}
}
