package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/actpass/sidecar/api"
)

// crashRounds is how often TestKillAmongRetries kills: 5 times, 1,000 with
// ACTPASS_LONG, or ACTPASS_CRASH_ROUNDS. ACTPASS_CRASH_TIME ends it earlier.
func crashRounds(t testing.TB) (rounds int, end time.Time) {
	rounds, end = 5, time.Now().Add(24*time.Hour)
	if os.Getenv("ACTPASS_LONG") != "" {
		rounds = 1000
	}
	var err error
	if n := os.Getenv("ACTPASS_CRASH_ROUNDS"); n != "" {
		rounds, err = strconv.Atoi(n)
		must(t, err)
	}
	if d := os.Getenv("ACTPASS_CRASH_TIME"); d != "" {
		limit, err := time.ParseDuration(d)
		must(t, err)
		end = time.Now().Add(limit)
	}
	return rounds, end
}

// TestKillAmongRetries sends one approved call fifty times at once through the
// proxy and kills the sidecar at a random moment. However it ends: the upstream
// saw it once at most; what was used up is on record as sent or perhaps sent; and
// what was not used up still is approved, and the next attempt uses it.
func TestKillAmongRetries(t *testing.T) {
	u := newUpstream(t)
	var mu sync.Mutex
	arrived := map[string]int{} // idempotency key to times seen
	u.handle(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		arrived[r.Header.Get("Idempotency-Key")]++
		mu.Unlock()
		time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond)
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"object":"refund"}`)
	})
	seen := func(key string) int {
		mu.Lock()
		defer mu.Unlock()
		return arrived[key]
	}
	sc := start(t, settings{front: u, hold: "3s"})
	rounds, end := crashRounds(t)
	const retries = 50
	endings := map[string]int{}
	n := 0
	for ; n < rounds && time.Now().Before(end); n++ {
		key := fmt.Sprintf("round_%d", n)
		client := sc.proxied(t, false)
		client.Timeout = patience
		attempt := func() (answer, error) {
			return trySend(client, http.MethodPost, "https://api.stripe.com/v1/refunds", form, refund("25000"), http.Header{"Idempotency-Key": {key}})
		}
		var wg sync.WaitGroup
		var decided sync.WaitGroup
		many := func() {
			for range retries {
				wg.Go(func() { _, _ = attempt() })
			}
		}
		// In every second round they come before the decision, and wait for it.
		wait := n%2 == 0
		if wait {
			many()
		} else {
			wg.Go(func() { _, _ = attempt() })
		}
		id := sc.pending()
		decide := func() error {
			_, err := sc.client().Decide(context.Background(), id, api.Verdict{Decision: "approve", Reason: "checked"})
			return err
		}
		if wait {
			decided.Go(func() { _ = decide() })
		} else {
			must(t, decide())
			many()
		}
		time.Sleep(time.Duration(rand.IntN(60_000)) * time.Microsecond)
		sc.kill()
		wg.Wait()
		decided.Wait()
		client.CloseIdleConnections()
		before := seen(key)
		sc.run()

		a, err := sc.client().Approval(context.Background(), id, 0)
		must(t, err)
		died := a.State
		if a.State == "pending" { // the decision was lost with its answer: ask again
			must(t, decide())
		}
		client = sc.proxied(t, false)
		client.Timeout = patience
		last, err := attempt()
		must(t, err)
		client.CloseIdleConnections()
		a, err = sc.client().Approval(context.Background(), id, 0)
		must(t, err)
		state := sc.outcomeOf(a.ConsumedBy)
		endings[fmt.Sprintf("died %s, seen %d, then %d: %s", died, before, last.status, state)]++
		where := fmt.Sprintf("round %d, approval %s, %s when it died, seen %d times then and %d now, last answer %d %s %.300s, event %s is %s",
			n, id, died, before, seen(key), last.status, last.header.Get("ActPass-Approval"), last.body, a.ConsumedBy, state)
		switch {
		case seen(key) > 1:
			t.Errorf("sent twice: %s", where)
		case a.State != "consumed" || state != "forwarded" && state != "ambiguous":
			t.Errorf("lost without a record: %s, %s", where, a.State)
		case died != "consumed" && (before != 0 || seen(key) != 1 || last.status != 200):
			t.Errorf("what was not used up could not be used: %s", where)
		case died == "consumed" && last.status != 409 && last.header.Get("ActPass-Replayed") != "true":
			t.Errorf("what was used up was not answered as such: %s", where)
		case state == "forwarded" && seen(key) != 1:
			t.Errorf("recorded as sent, and not seen: %s", where)
		}
		if t.Failed() {
			t.Fatal(tail(sc.log(), 30))
		}
	}
	lines := []string{fmt.Sprintf("%d rounds", n)}
	for what, times := range endings {
		lines = append(lines, fmt.Sprintf("%5d  %s", times, what))
	}
	t.Log(strings.Join(lines, "\n"))
}

// outcomeOf gives the recorded state of a call, when it is settled.
func (sc *sidecar) outcomeOf(id string) string {
	sc.t.Helper()
	if id == "" {
		return "without an event"
	}
	var e event
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		raw, err := sc.client().Event(context.Background(), id)
		if err != nil {
			continue // the index follows the log
		}
		must(sc.t, json.Unmarshal(raw, &e))
		if s := e.Outcome.State; s != "pending" && s != "held" {
			break
		}
	}
	return e.Outcome.State
}
