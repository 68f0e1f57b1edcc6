package store

import (
	"fmt"
	"time"

	"github.com/actpass/sidecar/gate"
)

// checkGrant refuses a grant that would have no bound, or nobody behind it.
func checkGrant(g gate.Grant) error {
	switch {
	case g.ID == "" || g.TenantID == "" || g.AgentID == "" || g.Tool == "" || g.Resource == "" || g.RuleHash == "" || g.KeyID == "":
		return misuse("a grant needs an id, a tenant, an agent, a tool, a resource, a rule and a key")
	case g.Count < 1:
		return misuse("grant %s is for %d uses", g.ID, g.Count)
	case g.SumMax < 0 || g.SumArg == "" && g.SumMax != 0:
		return misuse("grant %s has the sum %d of %q", g.ID, g.SumMax, g.SumArg)
	case g.Used != 0 || g.Summed != 0 || !g.RevokedAt.IsZero():
		return misuse("grant %s is used or revoked before it begins", g.ID)
	case g.CreatedAt.IsZero() || g.ExpiresAt.IsZero():
		return misuse("grant %s needs the times of its creation and its end", g.ID)
	}
	return nil
}

// grantUse applies one use to g. The ceilings are held here and nowhere else.
func grantUse(g *gate.Grant, eventID string, amount int64, now time.Time) error {
	why := ""
	switch {
	case eventID == "" || now.IsZero() || amount < 0:
		return misuse("grant %s is used by %q for %d", g.ID, eventID, amount)
	case !g.RevokedAt.IsZero():
		return fmt.Errorf("grant %s: %w", g.ID, gate.ErrRevoked)
	case past(now, g.ExpiresAt):
		why = "its time is over"
	case g.Used >= g.Count:
		why = "it is used up"
	case g.SumArg != "" && amount > g.SumMax-g.Summed:
		why = "its sum leaves no room"
	}
	if why != "" {
		return fmt.Errorf("grant %s: %s: %w", g.ID, why, gate.ErrIllegalState)
	}
	g.Used++
	if g.SumArg != "" {
		g.Summed += amount
	}
	return nil
}

// ungrant takes one use of amount back.
func ungrant(g *gate.Grant, amount int64) {
	g.Used--
	if g.SumArg != "" {
		g.Summed -= amount
	}
}

func grantLive(g *gate.Grant, now time.Time) bool {
	return g.RevokedAt.IsZero() && g.Used < g.Count && !past(now, g.ExpiresAt)
}

func grantPosition(g gate.Grant) position { return position{at: micros(g.CreatedAt), id: g.ID} }
