package gate

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/actpass/sidecar/evidence"
)

// ModeOverride is a stricter mode that an admin set for part of a tenant's traffic
// while the sidecar runs. It stands beside the Overrides of the settings: the
// strictest of all that cover a call is its mode, so that none can loosen.
type ModeOverride struct {
	ID        string // "mod_" and a UUIDv7
	TenantID  string
	Tool      string // glob, "" for every tool
	AgentID   string // glob, "" for every agent
	Mode      string
	Reason    string
	KeyID     string // who set it
	KeyName   string
	CreatedAt time.Time
	ClearedAt time.Time // zero: in force
	ClearedBy string    // key id
}

// ModeStore is the part of a Store that keeps mode overrides.
type ModeStore interface {
	// SetMode stores an override. ErrTooMany when the tenant has maxLive in force;
	// ErrIllegalState when the id exists.
	SetMode(ctx context.Context, o ModeOverride, maxLive int) error
	// ClearMode ends an override, once; again it gives the first. ErrNotFound.
	ClearMode(ctx context.Context, tenant, id, keyID string, at time.Time) (ModeOverride, error)
	// LiveModes gives those in force of all tenants, newest first.
	LiveModes(ctx context.Context) ([]ModeOverride, error)
}

// maxModes bounds the overrides of a tenant: each is looked at on every call.
const maxModes = 100

// NewMode is the wish for an override.
type NewMode struct {
	Tool, AgentID string // globs, "" for all
	Mode          string
	Reason        string
}

// LoadModes reads what is in force from the store. Call it before a door opens,
// and before the first Load or after it: both keep what the other gave.
func (g *Gate) LoadModes(ctx context.Context) error {
	g.modes.Lock()
	defer g.modes.Unlock()
	list, err := g.store.LiveModes(ctx)
	if err != nil {
		return fmt.Errorf("read the mode overrides: %w", err)
	}
	g.putModes(list)
	return nil
}

// KnownModes are the overrides in force of all tenants, as far as is known here: to
// be kept for a start at which the store cannot be asked.
func (g *Gate) KnownModes() []ModeOverride {
	g.modes.Lock()
	defer g.modes.Unlock()
	return slices.Clone(g.recorded)
}

// AssumeModes puts into force what was known of the store before, until LoadModes can
// ask it. It can only tighten what the settings say, as every override.
func (g *Gate) AssumeModes(list []ModeOverride) {
	g.modes.Lock()
	defer g.modes.Unlock()
	g.putModes(slices.Clone(list))
}

// putModes puts a list into force; g.modes is held.
func (g *Gate) putModes(list []ModeOverride) {
	g.recorded = list
	if r := g.rules.Load(); r != nil {
		next := *r
		next.recorded = list
		g.rules.Store(&next)
	}
}

// Modes are the overrides in force of the actor's tenant, newest first. Agents do
// not see them.
func (g *Gate) Modes(_ context.Context, actor Identity) ([]ModeOverride, error) {
	if actor.Role != RoleApprover && actor.Role != RoleAdmin {
		return nil, fmt.Errorf("list modes: %w: the key's role is %s", ErrNotAllowed, actor.Role)
	}
	g.modes.Lock()
	defer g.modes.Unlock()
	var list []ModeOverride
	for _, o := range g.recorded {
		if o.TenantID == actor.TenantID {
			list = append(list, o)
		}
	}
	return list, nil
}

// SetMode tightens the mode of part of the tenant's traffic, from this moment and
// over restarts. Only an admin may. Errors: *FieldError, ErrNotAllowed,
// ErrTooMany, ErrUnavailable.
func (g *Gate) SetMode(ctx context.Context, actor Identity, n NewMode) (ModeOverride, error) {
	if actor.Role != RoleAdmin {
		return ModeOverride{}, fmt.Errorf("set a mode: %w: the key's role is %s, and admin is needed", ErrNotAllowed, actor.Role)
	}
	g.modes.Lock()
	defer g.modes.Unlock()
	r := g.rules.Load()
	if r == nil {
		return ModeOverride{}, fmt.Errorf("set a mode: %w: no settings are loaded yet", ErrUnavailable)
	}
	if err := n.check(r.Mode); err != nil {
		return ModeOverride{}, err
	}
	o := ModeOverride{
		ID: newID("mod_"), TenantID: actor.TenantID, Tool: n.Tool, AgentID: n.AgentID, Mode: n.Mode, Reason: n.Reason,
		KeyID: actor.KeyID, KeyName: actor.Name, CreatedAt: g.now(),
	}
	// On record before it is in force. If we crash between the two, the record
	// tells of an override that tightened nothing.
	if err := g.noteMode(ctx, actor, &o, "mode override set", o.Reason); err != nil {
		return ModeOverride{}, err
	}
	if err := g.store.SetMode(ctx, o, maxModes); err != nil {
		// It may be stored all the same: what is in force now is what would be after
		// a restart.
		if list, again := g.store.LiveModes(ctx); again == nil {
			g.putModes(list)
		}
		return ModeOverride{}, fmt.Errorf("set a mode: %w", err)
	}
	g.putModes(append([]ModeOverride{o}, g.recorded...))
	return o, nil
}

// ClearMode ends an override at once: the mode is again what the settings say.
func (g *Gate) ClearMode(ctx context.Context, actor Identity, id, reason string) (ModeOverride, error) {
	if actor.Role != RoleAdmin {
		return ModeOverride{}, fmt.Errorf("clear mode %s: %w: the key's role is %s, and admin is needed", id, ErrNotAllowed, actor.Role)
	}
	g.modes.Lock()
	defer g.modes.Unlock()
	if err := checkReason(reason); err != nil {
		return ModeOverride{}, err
	}
	find := func() int {
		return slices.IndexFunc(g.recorded, func(o ModeOverride) bool { return o.ID == id && o.TenantID == actor.TenantID })
	}
	at := find()
	if at < 0 { // it may have been set by another sidecar on the same store
		list, err := g.store.LiveModes(ctx)
		if err != nil {
			return ModeOverride{}, fmt.Errorf("clear mode %s: %w", id, err)
		}
		g.putModes(list)
		at = find()
	}
	if at >= 0 {
		// On record before anything is looser.
		if err := g.noteMode(ctx, actor, &g.recorded[at], "mode override cleared", reason); err != nil {
			return ModeOverride{}, err
		}
	}
	o, err := g.store.ClearMode(ctx, actor.TenantID, id, actor.KeyID, g.now())
	if err != nil {
		return ModeOverride{}, fmt.Errorf("clear mode %s: %w", id, err) // it stays in force: the stricter of the two
	}
	if at >= 0 {
		g.putModes(slices.Delete(slices.Clone(g.recorded), at, at+1))
	}
	return o, nil
}

func (n *NewMode) check(configured string) error {
	for _, f := range []struct{ name, value string }{{"tool", n.Tool}, {"agent_id", n.AgentID}} {
		if len(f.value) > 256 {
			return &FieldError{f.name, "is longer than 256 bytes"}
		}
		for _, c := range f.value {
			if !unicode.IsPrint(c) {
				return &FieldError{f.name, "holds a character that cannot be printed"}
			}
		}
	}
	if strings.ContainsAny(n.Tool, "?[]{}") {
		return &FieldError{"tool", "may have * for any run of characters, and no other glob: set an override for each"}
	}
	switch {
	case n.Mode == "":
		return &FieldError{"mode", "is required: warn, enforce or strict"}
	case !ValidMode(n.Mode):
		return &FieldError{"mode", "must be warn, enforce or strict"}
	case rank(n.Mode) <= rank(configured):
		return &FieldError{"mode", fmt.Sprintf("does not tighten: the configured mode is %s, and an override can only be stricter", configured)}
	}
	return checkReason(n.Reason)
}

func checkReason(reason string) error {
	if len(reason) > 1024 {
		return &FieldError{"reason", "is longer than 1024 bytes"}
	}
	return nil
}

func (g *Gate) noteMode(ctx context.Context, actor Identity, o *ModeOverride, message, reason string) error {
	err := g.noteFor(ctx, actor, evidence.KindConfig, message, map[string]string{
		"override": o.ID, "tool": o.Tool, "agent_id": o.AgentID, "mode": o.Mode, "reason": reason,
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil
}

// tightened is mode, or the strictest of the overrides whose tool glob fits and
// that cover the identity. Those of the settings are for every tenant.
func (r *Rules) tightened(mode string, id Identity, fits func(tool string) bool) string {
	for i := range r.Overrides {
		o := &r.Overrides[i]
		if (o.Agent == "" || wildcard(o.Agent, id.AgentID)) && fits(o.Tool) {
			mode = stricter(mode, o.Mode)
		}
	}
	for i := range r.recorded {
		o := &r.recorded[i]
		if o.TenantID == id.TenantID && (o.AgentID == "" || wildcard(o.AgentID, id.AgentID)) && fits(o.Tool) {
			mode = stricter(mode, o.Mode)
		}
	}
	return mode
}
