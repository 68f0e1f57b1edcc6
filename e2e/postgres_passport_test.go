package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/store/pgtest"
)

// sameKeys gives every sidecar of a fleet the signing keys of the first.
func sameKeys(t *testing.T, list []*sidecar) {
	t.Helper()
	keys, err := os.ReadFile(filepath.Join(list[0].dir, "data", "passport.keys"))
	must(t, err)
	for _, sc := range list[1:] {
		file := filepath.Join(sc.dir, "data", "passport.keys")
		must(t, os.WriteFile(file+".new", keys, 0o600))
		must(t, os.Rename(file+".new", file))
		sc.awaitLog(t, "passport keys changed")
	}
}

// TestFleetPassports: a passport that is used, or revoked, at one sidecar is so at
// the others of its PostgreSQL, and of calls at all of them at once one passes.
func TestFleetPassports(t *testing.T) {
	pg := pgtest.Start(t)
	u := newUpstream(t)
	u.handle(refunded)
	list := fleet(t, 3, pg.Database(t), settings{mode: "strict", front: u})
	sameKeys(t, list)
	a, b, c := list[0], list[1], list[2]

	for i, d := range doors {
		name := d.name + string(rune('0'+i))
		used := a.passport(nil)
		if got := d.sendRefund(t, a, "4900", used.Token); got.status != 200 {
			t.Fatalf("%s: %d %s", name, got.status, got.body)
		}
		for _, other := range []*sidecar{b, c} {
			d.blocked(t, other, u, name+", used at another replica", "4900", used.Token, "passport.replayed")
		}
		revoked := a.passport(nil)
		_, err := b.client().RevokePassport(t.Context(), revoked.ID, "lost")
		must(t, err)
		for _, other := range []*sidecar{c, a} {
			d.blocked(t, other, u, name+", revoked at another replica", "4900", revoked.Token, "passport.revoked")
		}
		// The preflight of another replica knows of both.
		for token, want := range map[string]string{used.Token: "passport.replayed", revoked.Token: "passport.revoked"} {
			got, refused, err := c.client().Preflight(t.Context(), refundAction(token))
			must(t, err)
			if !refused || got.ReasonCode != want {
				t.Errorf("%s, preflight: %v %s, want %s", name, refused, got.ReasonCode, want)
			}
		}
	}

	t.Run("at once", func(t *testing.T) {
		for round := range 20 {
			p := list[round%3].passport(nil)
			before := len(u.requestsSeen())
			said := map[string]int{}
			var mu sync.Mutex
			var wg sync.WaitGroup
			for i := range 4 * len(list) {
				wg.Go(func() {
					got := doors[(round+i)%len(doors)].sendRefund(t, list[i%3], "4900", p.Token)
					mu.Lock()
					defer mu.Unlock()
					said[fmt.Sprint(got.status, " ", got.header.Get("ActPass-Reason"))]++
				})
			}
			wg.Wait()
			if n := len(u.requestsSeen()) - before; n != 1 || said["200 refund.small_in_scope"] != 1 || said["403 passport.replayed"] != 4*len(list)-1 {
				t.Errorf("round %d: the upstream saw %d, answers %v", round, n, said)
			}
		}
	})

	t.Run("given back", func(t *testing.T) {
		// Nobody is there, so nothing is sent, and any replica may try again.
		p := a.passport(func(n *api.NewPassport) {
			n.AllowedTools, n.AllowedResources, n.ResourceConstraints = []string{"http.post"}, []string{"*"}, nil
		})
		h := http.Header{"ActPass-Passport": {p.Token}}
		for _, sc := range list {
			got := send(t, sc.proxied(t, false), "POST", "http://nowhere.example.test/x", "text/plain", "x", h)
			if reason := got.header.Get("ActPass-Reason"); got.status != 502 || reason != "request.upstream_unreachable" {
				t.Errorf("%d %s %s", got.status, reason, got.body)
			}
		}
		if got := send(t, b.proxied(t, false), "POST", "http://echo.example.test/x", "text/plain", "x", h); got.status != 200 {
			t.Errorf("%d %s", got.status, got.body)
		}
		u.quiet(t, "used at another replica", func() {
			got := send(t, c.proxied(t, false), "POST", "http://echo.example.test/x", "text/plain", "x", h)
			if got.status != 403 || got.header.Get("ActPass-Reason") != "passport.replayed" {
				t.Errorf("%d %s", got.status, got.body)
			}
		})
	})
}
