package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestKillDuringLoad kills the sidecar twenty times while clients hammer it.
// Whatever the upstream saw has an event that was durable before; what was on
// its way is ambiguous afterwards; nothing is sent a second time.
func TestKillDuringLoad(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	var mu sync.Mutex
	arrived := map[string]int{} // charge id to times seen by the upstream
	u.handle(func(w http.ResponseWriter, r *http.Request) {
		// The key is the charge: of a call that is cut off the body may be missing.
		charge := r.Header.Get("Idempotency-Key")
		if got := r.PostFormValue("charge"); got != "" && got != charge {
			t.Errorf("%s arrived with the body of %s", charge, got)
		}
		mu.Lock()
		arrived[charge]++
		mu.Unlock()
		time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond)
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"object":"refund","charge":%q}`, charge)
	})
	sc := start(t, settings{front: u})
	const kills, clients = 20, 16
	answered := map[string]bool{}
	for round := range kills {
		ended := make(chan struct{})
		var wg sync.WaitGroup
		for c := range clients {
			wg.Go(func() {
				tr := &http.Transport{}
				defer tr.CloseIdleConnections()
				client := &http.Client{Transport: tr, Timeout: patience}
				for n := 0; ; n++ {
					select {
					case <-ended:
						return
					default:
					}
					charge := fmt.Sprintf("ch_%d_%d_%d", round, c, n)
					a, err := trySend(client, http.MethodPost, "http://"+sc.revers+"/stripe/v1/refunds", form,
						"charge="+charge+"&currency=usd&amount=100", http.Header{"Idempotency-Key": {charge}})
					if err == nil && a.status == 200 && strings.Contains(string(a.body), charge) {
						mu.Lock()
						answered[charge] = true
						mu.Unlock()
					}
				}
			})
		}
		time.Sleep(time.Duration(10+rand.IntN(120)) * time.Millisecond)
		sc.kill()
		close(ended)
		wg.Wait()
		sc.run()
		if out, code := sc.cli("evidence", "verify"); code != 0 {
			t.Fatalf("after kill %d: evidence verify: %d\n%s", round, code, out)
		}
	}
	states := map[string]int{}
	recorded := map[string]string{} // charge to state
	for _, e := range sc.events() {
		charge := strings.TrimPrefix(e.Resource, "stripe:charge:")
		if _, twice := recorded[charge]; twice {
			t.Errorf("%s has two events", charge)
		}
		recorded[charge] = e.Outcome.State
		states[e.Outcome.State]++
	}
	t.Logf("the upstream saw %d calls, %d were answered, the events are %v", len(arrived), len(answered), states)
	for charge, times := range arrived {
		if times != 1 {
			t.Errorf("%s reached the upstream %d times", charge, times)
		}
		switch recorded[charge] {
		case "forwarded", "ambiguous":
		case "":
			t.Errorf("%s reached the upstream and is not on record", charge)
		default:
			t.Errorf("%s reached the upstream and is on record as %s", charge, recorded[charge])
		}
	}
	for charge := range answered {
		if recorded[charge] == "" {
			t.Errorf("%s was answered and is not on record", charge)
		}
	}
	if states["pending"] > 0 {
		t.Errorf("%d events are still without an outcome", states["pending"])
	}
	if states["ambiguous"] == 0 || states["forwarded"] < kills || len(answered) < kills {
		t.Errorf("the kills hit nothing: %v", states)
	}
}

// TestKillAroundAnApproval: a hold outlives the process, and what a human
// approved is sent once at most, whenever the process dies.
func TestKillAroundAnApproval(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	entered := make(chan struct{}, 10)
	var answer atomic.Bool
	u.handle(func(w http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		if !answer.Load() {
			<-r.Context().Done() // the sidecar dies before this answers
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"object":"refund"}`)
	})
	sc := start(t, settings{front: u, hold: "10s"})
	ask := func(key string) <-chan answerOr {
		ch := make(chan answerOr, 1)
		revers := sc.revers
		go func() {
			a, err := trySend(&http.Client{Transport: &http.Transport{}, Timeout: 2 * patience}, http.MethodPost, "http://"+revers+"/stripe/v1/refunds", form,
				refund("25000"), http.Header{"Idempotency-Key": {key}})
			ch <- answerOr{a, err}
		}()
		return ch
	}

	// Killed while it waits: the approval stands, and the retry attaches to it.
	first := ask("waits")
	id := sc.pending()
	u.quiet(t, "a held call whose sidecar dies", func() {
		sc.kill()
		<-first
		sc.run()
	})
	if got := sc.pending(); got != id {
		t.Fatalf("approval %s stands, want %s", got, id)
	}
	sc.approve(id)

	// Killed while the upstream works on it: used up, and not known how it ended.
	second := ask("waits")
	select {
	case <-entered:
	case <-time.After(patience):
		t.Fatalf("the approved call was not sent: %+v", <-second)
	}
	sc.kill()
	if r := <-second; r.err == nil {
		t.Errorf("a call whose sidecar died was answered: %d", r.status)
	}
	sc.run()
	answer.Store(true)
	u.quiet(t, "the retry of a call that was sent once", func() {
		r := <-ask("waits")
		if r.err != nil || r.status != 409 || r.header.Get("ActPass-Approval") != id || !strings.Contains(string(r.body), "approval.consumed") {
			t.Errorf("%v %d %v %s", r.err, r.status, r.header, r.body)
		}
	})
	states := map[string]int{}
	for _, e := range sc.events() {
		states[e.Outcome.State]++
	}
	if states["ambiguous"] != 1 || states["forwarded"] != 0 || states["pending"] != 0 {
		t.Errorf("the events are %v, want the one that was sent ambiguous", states)
	}

	// Killed between the decision and the use: the retry finds it approved.
	third := ask("approved")
	id = sc.pending()
	sc.kill()
	<-third
	sc.run()
	sc.approve(id)
	sc.kill()
	sc.run()
	if r := <-ask("approved"); r.err != nil || r.status != 200 {
		t.Errorf("%v %d %s", r.err, r.status, r.body)
	}
	if n := len(u.requestsSeen()); n != 2 {
		t.Errorf("the upstream saw %d calls, want one of each approval", n)
	}
}

type answerOr struct {
	answer
	err error
}
