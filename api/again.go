package api

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

const (
	maxAnswers  = 4096
	answersLive = 10 * time.Minute
)

// answers remembers which preflights with the intent execute were let through,
// by the caller's key and the Idempotency-Key header, so that a caller whose
// answer was lost asks again and gets the same one: the same event, no second
// share of a limit, no second use of a passport or an approval. A refusal and a
// question to a human are not remembered; asking them again uses nothing.
//
// It is in memory: after a restart a repeated question is a new one, which can
// use more of a limit, and never lets a single use be had twice.
type answers struct {
	mu    sync.Mutex
	given map[string]*reply
	order []string // oldest first
}

type reply struct {
	once sync.Mutex // held while the gate is asked
	ask  [sha256.Size]byte
	when time.Time
	d    evidence.Decision // Decision "" until it is let through
}

// preflight asks the gate, unless this very question was let through already.
func (l *answers) preflight(ctx context.Context, g Gate, id gate.Identity, attempt string, p gate.Preflight) (evidence.Decision, bool, error) {
	if attempt == "" || p.Intent != gate.IntentExecute {
		return g.Preflight(ctx, id, p)
	}
	text, err := json.Marshal(p)
	if err != nil {
		return evidence.Decision{}, true, fmt.Errorf("encode the question: %w", err)
	}
	a := l.of(id.TenantID + " " + id.KeyID + " " + attempt)
	a.once.Lock()
	defer a.once.Unlock()
	if ask := sha256.Sum256(text); a.d.Decision == "" || time.Since(a.when) > answersLive {
		a.ask, a.d = ask, evidence.Decision{}
	} else if a.ask != ask {
		return evidence.Decision{}, true, &Error{Status: http.StatusConflict, Code: "action.illegal_state", Message: "this Idempotency-Key was sent before, for another action; every action needs its own"}
	} else {
		return a.d, false, nil
	}
	d, refused, err := g.Preflight(ctx, id, p)
	if err == nil && !refused && (d.Enforcement == "none" || d.Enforcement == "warn") {
		a.d, a.when = d, time.Now()
	}
	return d, refused, err
}

func (l *answers) of(name string) *reply {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.given[name]; a != nil {
		return a
	}
	if l.given == nil {
		l.given = map[string]*reply{}
	}
	if len(l.order) == maxAnswers {
		delete(l.given, l.order[0])
		l.order = l.order[1:]
	}
	l.given[name] = &reply{}
	l.order = append(l.order, name)
	return l.given[name]
}
