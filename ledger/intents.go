package ledger

import (
	"cmp"
	"slices"

	"github.com/actpass/sidecar/evidence"
)

// Intent is an action on record that was, or may have been, sent, and has no
// outcome yet.
type Intent struct {
	ID    string `json:"id"`
	Index uint64 `json:"index"`
}

// maxIntents bounds the intents that are remembered. Calls in flight are far
// fewer; what could fill it are actions that callers execute themselves and
// never report on.
const maxIntents = 1 << 16

// intents are the open ones by event id.
type intents map[string]Intent

// note follows the log: an action opens an intent, and so does the release of
// one that was held; any other outcome closes it.
func (in intents) note(s evidence.Summary, index uint64) {
	id := s.ID
	switch {
	case s.Open():
	case s.Kind == evidence.KindOutcome && s.EventID != "" && s.State == evidence.StatePending:
		id = s.EventID
	case s.Kind == evidence.KindOutcome:
		delete(in, s.EventID)
		return
	default:
		return
	}
	if len(in) >= maxIntents {
		in.drop()
	}
	in[id] = Intent{ID: id, Index: index}
}

// drop forgets the older half.
func (in intents) drop() {
	list := in.sorted()
	for _, i := range list[:len(list)/2] {
		delete(in, i.ID)
	}
}

// sorted gives the intents in the order of the log.
func (in intents) sorted() []Intent {
	list := make([]Intent, 0, len(in))
	for _, i := range in {
		list = append(list, i)
	}
	slices.SortFunc(list, func(a, b Intent) int { return cmp.Compare(a.Index, b.Index) })
	return list
}
