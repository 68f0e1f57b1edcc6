package api

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"
)

func TestAKeyHasItsRate(t *testing.T) {
	var now atomic.Int64
	now.Store(time.Now().UnixNano())
	a := newAPI(t, func(o *Options) { o.Rate = 5; o.Now = func() time.Time { return time.Unix(0, now.Load()) } })
	for range 10 { // the burst is twice the rate
		a.call("GET", "/api/v1/keys", adminKey, "").want(t, 200, "", "")
	}
	got := a.call("GET", "/api/v1/keys", adminKey, "")
	got.want(t, 429, "too_many_requests", "")
	if got.header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After is %q", got.header.Get("Retry-After"))
	}
	a.call("POST", preflightPath, adminKey, `{"tool":"t","agent_id":"a"}`).want(t, 429, "too_many_requests", "")
	a.call("GET", "/api/v1/approvals", approverKey, "").want(t, 200, "", "") // another key's rate is its own
	a.call("GET", "/healthz", "", "").want(t, 200, "", "")
	now.Add(int64(time.Second))
	for range 5 {
		a.call("GET", "/api/v1/keys", adminKey, "").want(t, 200, "", "")
	}
	a.call("GET", "/api/v1/keys", adminKey, "").want(t, 429, "too_many_requests", "")
	now.Add(-int64(time.Hour)) // a clock set back gives nothing
	a.call("GET", "/api/v1/keys", adminKey, "").want(t, 429, "too_many_requests", "")
}

func TestWithoutARateThereIsNone(t *testing.T) {
	r := newRates(0)
	for range 10_000 {
		if r.take("key", time.Now()) != 0 {
			t.Fatal("it waits")
		}
	}
}

func TestRatesAreBounded(t *testing.T) {
	r, now := newRates(1), time.Now()
	for i := range 3 * maxRated {
		r.take(fmt.Sprint(i), now)
		if i%maxRated == 0 {
			now = now.Add(5 * time.Second)
		}
	}
	if len(r.keys) > maxRated {
		t.Errorf("%d keys are kept", len(r.keys))
	}
}
