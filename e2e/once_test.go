package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/actpass/sidecar/api"
)

// TestOnePassportAllDoors presents one passport at every door at the same time,
// the preflight's among them: one call, or one execution, gets it.
func TestOnePassportAllDoors(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	u.handle(refunded)
	sc := start(t, settings{mode: "strict", front: u})
	for round := range 10 {
		p := sc.passport(nil)
		before := len(u.requestsSeen())
		var mu sync.Mutex
		said := map[string]int{}
		count := func(what string) {
			mu.Lock()
			defer mu.Unlock()
			said[what]++
		}
		var wg sync.WaitGroup
		for _, d := range doors {
			for range 2 {
				wg.Go(func() {
					a := d.sendRefund(t, sc, "4900", p.Token)
					if a.status == 200 {
						count("sent")
					} else {
						count(a.header.Get("ActPass-Reason"))
					}
				})
			}
		}
		for range 4 {
			wg.Go(func() {
				a := refundAction(p.Token)
				a.Intent = "execute"
				d, refused, err := sc.client().Preflight(t.Context(), a)
				switch {
				case err != nil:
					t.Error(err)
				case refused:
					count(d.ReasonCode)
				default:
					count("executed")
				}
			})
		}
		wg.Wait()
		if said["sent"]+said["executed"] != 1 || said["passport.replayed"] != 2*len(doors)+3 || len(u.requestsSeen())-before != said["sent"] {
			t.Errorf("round %d: %v, the upstream saw %d", round, said, len(u.requestsSeen())-before)
		}
	}
}

// TestRevokedOnAnOpenConnection: what is revoked ends for the next call on
// connections that were open before: of a passport, and of the caller's key.
func TestRevokedOnAnOpenConnection(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprint("HTTP/2 ", h2), func(t *testing.T) {
			t.Parallel()
			u := newUpstream(t)
			u.handle(refunded)
			sc := start(t, settings{mode: "strict", front: u})
			k, err := sc.client().CreateKey(t.Context(), api.NewKey{Name: "agent", Role: "gateway", AgentID: "support_agent"})
			must(t, err)
			var dials atomic.Int64
			c := sc.proxied(t, h2)
			tr := c.Transport.(*http.Transport)
			tr.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: sc.proxy, User: url.UserPassword("support_agent", k.Key)})
			tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				dials.Add(1)
				return new(net.Dialer).DialContext(ctx, network, addr)
			}
			refunds := func(token string) string {
				a := send(t, c, "POST", "https://api.stripe.com/v1/refunds", form, refund("4900"), http.Header{"ActPass-Passport": {token}})
				return fmt.Sprint(a.status, " ", a.header.Get("ActPass-Reason"))
			}
			if got := refunds(sc.passport(nil).Token); got != "200 refund.small_in_scope" {
				t.Fatal(got)
			}
			p, next := sc.passport(nil), sc.passport(nil)
			_, err = sc.client().RevokePassport(t.Context(), p.ID, "lost")
			must(t, err)
			u.quiet(t, "a revoked passport", func() {
				if got := refunds(p.Token); got != "403 passport.revoked" {
					t.Error(got)
				}
			})
			must(t, sc.client().RevokeKey(t.Context(), k.ID))
			u.quiet(t, "a revoked key", func() {
				if got := refunds(next.Token); got != "407 request.unauthenticated" {
					t.Error(got)
				}
			})
			if n := dials.Load(); n != 1 {
				t.Errorf("%d connections, and it was to be the one that was open", n)
			}
		})
	}
}
