package api

import "sync"

// reports remembers the actions that were let go lately for their callers to take,
// and what was reported of them: an outcome that comes a moment later needs no
// look into the index, which would first have to catch up, and of several reports
// that come before the index knows the first, one is recorded. What is not
// remembered, after a restart, in another sidecar of the fleet, or after maxReports
// others, is looked up.
type reports struct {
	mu      sync.Mutex
	byEvent map[string]*report
	order   []string // oldest first
}

type report struct {
	once  sync.Mutex // held while it is recorded
	state string     // "" until it is recorded
	of    *awaited   // nil: not let go here; never changed
}

// awaited is an action whose outcome its caller owes.
type awaited struct{ tenant, agent, key, approval string }

const maxReports = 4096

// await remembers that the event's action was let go.
func (s *reports) await(event string, a awaited) { s.of(event, &a) }

// awaited gives the action of an event that was let go here lately.
func (s *reports) awaited(event string) (awaited, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.byEvent[event]; r != nil && r.of != nil {
		return *r.of, true
	}
	return awaited{}, false
}

// report records state by record, unless something is on record for the event
// already, and gives what is on record then.
func (s *reports) report(event, state string, record func() error) (string, error) {
	r := s.of(event, nil)
	r.once.Lock()
	defer r.once.Unlock()
	if r.state != "" {
		return r.state, nil
	}
	if err := record(); err != nil {
		return "", err
	}
	r.state = state
	return state, nil
}

// of gives the report of an event, a new one with action a for one that is not remembered.
func (s *reports) of(event string, a *awaited) *report {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.byEvent[event]; r != nil {
		return r
	}
	if s.byEvent == nil {
		s.byEvent = map[string]*report{}
	}
	if len(s.order) == maxReports {
		delete(s.byEvent, s.order[0])
		s.order = s.order[1:]
	}
	s.byEvent[event] = &report{of: a}
	s.order = append(s.order, event)
	return s.byEvent[event]
}
