package api

import "sync"

// words remembers the actions that were let go lately for their callers to take,
// and what was reported of them: an outcome that comes a moment later needs no
// look into the index, which would first have to catch up, and of several reports
// that come before the index knows the first, one is recorded. What is not
// remembered, after a restart, in another sidecar of the fleet, or after maxWords
// others, is looked up.
type words struct {
	mu    sync.Mutex
	said  map[string]*word
	order []string // oldest first
}

type word struct {
	once  sync.Mutex // held while it is recorded
	state string     // "" until it is recorded
	of    *awaited   // nil: not let go here; never changed
}

// awaited is an action whose outcome its caller owes.
type awaited struct{ tenant, agent, key, approval string }

const maxWords = 4096

// await remembers that the event's action was let go.
func (l *words) await(event string, a awaited) { l.of(event, &a) }

// awaited gives the action of an event that was let go here lately.
func (l *words) awaited(event string) (awaited, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w := l.said[event]; w != nil && w.of != nil {
		return *w.of, true
	}
	return awaited{}, false
}

// report records state by record, unless something is on record for the event
// already, and gives what is on record then.
func (l *words) report(event, state string, record func() error) (string, error) {
	said := l.of(event, nil)
	said.once.Lock()
	defer said.once.Unlock()
	if said.state != "" {
		return said.state, nil
	}
	if err := record(); err != nil {
		return "", err
	}
	said.state = state
	return state, nil
}

// of gives the word of an event, a new one with action a for one that is not remembered.
func (l *words) of(event string, a *awaited) *word {
	l.mu.Lock()
	defer l.mu.Unlock()
	if said := l.said[event]; said != nil {
		return said
	}
	if l.said == nil {
		l.said = map[string]*word{}
	}
	if len(l.order) == maxWords {
		delete(l.said, l.order[0])
		l.order = l.order[1:]
	}
	l.said[event] = &word{of: a}
	l.order = append(l.order, event)
	return l.said[event]
}
