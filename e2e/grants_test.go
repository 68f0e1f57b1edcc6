package e2e

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/actpass/sidecar/api"
)

// TestGrantOfTen: under a grant of ten, a hundred calls at once through the proxy
// make ten upstream requests, also when the sidecar is killed among them and
// starts again; the others wait for a human.
func TestGrantOfTen(t *testing.T) {
	t.Parallel()
	for _, killed := range []bool{false, true} {
		u := newUpstream(t)
		u.handle(refunded)
		sc := start(t, settings{mode: "enforce", hold: "1s", front: u, policies: map[string]string{"p.yaml": `policies:
  - name: p
    version: 1
    tools: ["stripe.refund.*"]
    rules:
      - { name: asks, decision: require_approval, reason_code: refund.asks, approval: { approvers: [support-leads] } }
`}})
		lead := api.NewClient("http://"+sc.api, sc.key("--name", "lead", "--role", "approver", "--group", "support-leads"), nil)
		g, err := lead.CreateGrant(context.Background(), api.NewGrant{
			AgentID: "support_agent", Tool: "stripe.refund.create", Resource: "stripe:charge:*", Policy: "p", Rule: "asks", Count: 10, TTL: 600,
			ResourceConstraints: api.Constraints{"max": map[string]any{"amount": 100}, "equals": map[string]any{"currency": "usd"}}, FreeArgs: []string{"charge"},
		})
		must(t, err)
		// Beyond the shape: asked for, not sent.
		if a, err := refundOf(sc, "ch_beyond", 101); err != nil || a.status != 503 || a.header.Get("ActPass-Approval") == "" {
			t.Fatalf("beyond the shape: %+v, %v", a, err)
		}
		if killed {
			time.AfterFunc(30*time.Millisecond, sc.kill)
		}
		ok, held := grantWave(sc, "a")
		if killed {
			time.Sleep(100 * time.Millisecond) // the kill may come after the last answer
			sc.run()
			more, _ := grantWave(sc, "b")
			ok += more
			lead = api.NewClient("http://"+sc.api, sc.admin, nil)
		}
		got, err := lead.Grant(context.Background(), g.ID)
		must(t, err)
		seen := len(u.requestsSeen())
		t.Logf("killed %v: %d answered, %d held, the upstream saw %d, %d used", killed, ok, held, seen, got.Used)
		switch {
		case !killed && (ok != 10 || held != 90 || seen != 10):
			t.Errorf("%d answered, %d held, the upstream saw %d", ok, held, seen)
		case seen > 10 || got.Used != 10 || ok > seen:
			t.Errorf("killed %v: %d answered, the upstream saw %d, %d used", killed, ok, seen, got.Used)
		}
	}
}

func refundOf(sc *sidecar, charge string, amount int) (answer, error) {
	client := &http.Client{Timeout: patience}
	defer client.CloseIdleConnections()
	return trySend(client, http.MethodPost, "http://"+sc.revers+"/stripe/v1/refunds", form, fmt.Sprintf("charge=%s&currency=usd&amount=%d", charge, amount), http.Header{})
}

// grantWave sends a hundred calls at once; the rest was cut off.
func grantWave(sc *sidecar, wave string) (ok, held int) {
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr, Timeout: patience}
	target := "http://" + sc.revers + "/stripe/v1/refunds"
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			a, err := trySend(client, http.MethodPost, target, form, fmt.Sprintf("charge=ch_%s_%d&currency=usd&amount=100", wave, i), http.Header{})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
			case a.status == 200:
				ok++
			case a.status == 503 && a.header.Get("ActPass-Approval") != "":
				held++
			default:
				sc.t.Errorf("%d %s", a.status, a.body)
			}
		})
	}
	wg.Wait()
	return ok, held
}
