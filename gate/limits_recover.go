package gate

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/actpass/sidecar/evidence"
)

// latestReservations is how many shares are looked at after a crash: more than
// can be between reserving and recording at a time.
const latestReservations = 1000

// ReleaseUnrecorded gives back the shares of calls that a crash cut off between
// taking them and being recorded: nothing was sent for them, because nothing is
// sent without a record. Each is told in a record of its own. recorded says
// whether an event stands in the log. Only for a store that no other sidecar
// uses, and before any door opens.
//
// If we crash here, the next start finds the same shares, or those that are left.
func (g *Gate) ReleaseUnrecorded(ctx context.Context, recorded func(eventID string) bool) (calls int, err error) {
	list, err := g.store.Reservations(ctx, latestReservations)
	if err != nil {
		return 0, fmt.Errorf("find shares of limits without a record: %w", err)
	}
	type cutOff struct{ tenant, event string }
	lost := map[cutOff]map[string]string{}
	var order []cutOff
	for _, r := range list {
		// What an approval holds is given back by the approval's own end.
		if !strings.HasPrefix(r.EventID, "ev_") || recorded(r.EventID) {
			continue
		}
		c := cutOff{r.TenantID, r.EventID}
		if lost[c] == nil {
			lost[c] = map[string]string{"event_id": r.EventID}
			order = append(order, c)
		}
		n := strconv.Itoa((len(lost[c])-1)/3 + 1)
		lost[c]["limit."+n], lost[c]["key."+n], lost[c]["amount."+n] = r.Limit, clip(r.Key), strconv.FormatInt(r.Amount, 10)
	}
	for _, c := range order {
		const what = "a call was cut off after it took its share of a limit and before it was on record: it was not sent, and the share is given back"
		if err := g.noteFor(ctx, Identity{TenantID: c.tenant, Source: SourceConfig}, evidence.KindSystem, what, lost[c]); err != nil {
			return calls, err
		}
		if err := g.store.Release(ctx, c.tenant, c.event); err != nil {
			return calls, fmt.Errorf("release limits of %s: %w", c.event, err)
		}
		calls++
	}
	return calls, nil
}
