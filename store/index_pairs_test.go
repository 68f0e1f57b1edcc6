package store

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/actpass/sidecar/evidence"
)

// TestNoKindHidesBehindActions: a glob over tools passes a block by that has no
// kind but action, by their bits.
func TestNoKindHidesBehindActions(t *testing.T) {
	for _, kind := range []string{
		"", evidence.KindOutcome, evidence.KindApproval, evidence.KindConfig, evidence.KindPassport, evidence.KindGrant, evidence.KindDoctor, evidence.KindSystem,
	} {
		if maskBit(kind) == maskBit(evidence.KindAction) {
			t.Errorf("the kind %q has the bit of actions", kind)
		}
	}
}

// TestBlocksArePassedBy: what stands everywhere and never together is not looked
// for in every block, and is found where it does.
func TestBlocksArePassedBy(t *testing.T) {
	ix := openIndex(t, filepath.Join(t.TempDir(), "index.db"))
	log := newSliceLog("k")
	const blocks = 8
	put := func(i int, change func(e *evidence.Event)) {
		b, err := action(i, change).Encode()
		if err != nil {
			t.Fatal(err)
		}
		log.add(b)
	}
	together := blockSize*3 + 100
	for i := range blocks * blockSize {
		put(i, func(e *evidence.Event) {
			e.AgentID, e.Tool = "a", "stripe.refund.create"
			if i%2 == 0 {
				e.AgentID, e.Tool, e.Decision.Decision, e.ReasonCode = "b", "github.repo.delete", "deny", "policy.default"
			}
			switch i {
			case together:
				e.AgentID, e.Tool = "a", "github.repo.delete"
			case together + 3*blockSize: // its tool is that of no action
				e.Kind, e.Tool = evidence.KindApproval, "zendesk.ticket.close"
			}
		})
	}
	follow(t, ix, log)
	catchUp(t, ix, log.Size())
	ctx := context.Background()
	for _, c := range []struct {
		q           Query
		found, read int // events of a page of one; blocks, those apart that are read by chance
	}{
		{Query{Agent: "a"}, 1, blocks},
		{Query{Agent: "a", Reason: "policy.default"}, 1, 1},
		{Query{Agent: "b", Decision: "allow"}, 0, 0},
		{Query{Agent: "a", Decision: "deny", Reason: "policy.default"}, 1, 1},
		{Query{Tool: "stripe.refund.create", Decision: "deny"}, 0, 0},
		{Query{Tool: "stripe.*", Decision: "deny", Kind: evidence.KindAction}, 0, 1},
		{Query{Tool: "github.*", Agent: "a"}, 1, 2},
		{Query{Tool: "zendesk.*", Agent: "a"}, 0, 1},
		{Query{Tool: "zendesk.*", Agent: "b", Kind: evidence.KindApproval}, 1, 1},
		{Query{Tool: "*", Agent: "a"}, 1, blocks},
	} {
		c.q.Tenant, c.q.Limit = "acme", 1
		if c.q.Kind == "" {
			c.q.Kind = KindAll
		}
		list, _, err := ix.Events(ctx, c.q)
		if err != nil || len(list) != c.found {
			t.Errorf("%+v: %d events, %v", c.q, len(list), err)
		}
		where, args, err := c.q.pairsOf(ctx, ix.read, c.q.tests())
		if err != nil {
			t.Fatal(err)
		}
		if where == "" {
			where = "1"
		}
		var read int
		if err := ix.read.QueryRow(`SELECT count(*) FROM blocks b WHERE `+where, args...).Scan(&read); err != nil {
			t.Fatal(err)
		}
		if read < c.read || read > c.read+2 {
			t.Errorf("%+v: %d blocks are read, want %d", c.q, read, c.read)
		}
	}
	// More tools than are written out.
	for i := range maxNamed + 1 {
		put(blocks*blockSize+i, func(e *evidence.Event) { e.AgentID, e.Tool = "c", fmt.Sprintf("many.tool%d", i) })
	}
	catchUp(t, ix, log.Size())
	if list, _, err := ix.Events(ctx, Query{Tenant: "acme", Tool: "many.*", Agent: "c"}); err != nil || len(list) != maxNamed+1 {
		t.Errorf("%d events, %v", len(list), err)
	}
}
