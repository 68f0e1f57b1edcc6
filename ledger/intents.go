package ledger

import (
	"cmp"
	"slices"

	"github.com/actpass/sidecar/evidence"
)

// Intent is an action on record that has no final outcome yet.
type Intent struct {
	ID    string `json:"id"`
	State string `json:"state"` // evidence.StatePending or evidence.StateHeld
	Index uint64 `json:"index"`
}

// maxIntents bounds the intents that are remembered. Calls in flight are far
// fewer; what fills it are held actions that nobody ever closes.
const maxIntents = 1 << 16

// intents are the open ones by event id.
type intents map[string]Intent

// note follows the log: an action opens an intent, its outcome closes it.
func (in intents) note(s evidence.Summary, index uint64) {
	switch {
	case s.Open():
		if len(in) >= maxIntents {
			in.drop()
		}
		in[s.ID] = Intent{ID: s.ID, State: s.State, Index: index}
	case s.Kind == evidence.KindOutcome && s.EventID != "":
		was, ok := in[s.EventID]
		switch {
		case !ok:
		case s.State == evidence.StatePending || s.State == evidence.StateHeld:
			was.State = s.State // it moved on, and is still open
			in[s.EventID] = was
		default:
			delete(in, s.EventID)
		}
	}
}

// drop forgets the older half, held ones first: they were not sent.
func (in intents) drop() {
	list := in.sorted()
	slices.SortStableFunc(list, func(a, b Intent) int {
		return cmp.Compare(rank(a), rank(b))
	})
	for _, i := range list[:len(list)/2] {
		delete(in, i.ID)
	}
}

func rank(i Intent) int {
	if i.State == evidence.StateHeld {
		return 0
	}
	return 1
}

// sorted gives them oldest first.
func (in intents) sorted() []Intent {
	list := make([]Intent, 0, len(in))
	for _, i := range in {
		list = append(list, i)
	}
	slices.SortFunc(list, func(a, b Intent) int { return cmp.Compare(a.Index, b.Index) })
	return list
}
