package gate

import (
	"context"
	"fmt"
)

// KeyIdentity is who speaks with a key of the configured tenant that is known by
// its id and not by its secret: for a channel that has proved in another way
// whose word it carries. ErrNotAllowed when the key is unknown, revoked or
// expired. The store is asked each time, so that a revoked key's word does not
// count for a moment longer.
func (g *Gate) KeyIdentity(ctx context.Context, id string) (Identity, error) {
	tenant := g.ConfigIdentity().TenantID
	for cursor := ""; ; {
		keys, next, err := g.store.Keys(ctx, tenant, cursor, 1000)
		if err != nil {
			return Identity{}, fmt.Errorf("look up key %s: %w", id, err)
		}
		for i := range keys {
			if keys[i].ID == id {
				return keys[i].identity("", g.now())
			}
		}
		if cursor = next; cursor == "" {
			return Identity{}, fmt.Errorf("%w: there is no key %s", ErrNotAllowed, id)
		}
	}
}
