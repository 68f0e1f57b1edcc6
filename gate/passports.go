package gate

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/passport"
	"github.com/actpass/sidecar/policy"
)

// Authority issues and verifies passports. The first key signs; the others are
// those of before, which verify until what they signed has expired.
type Authority struct {
	Issuer   string
	Audience string
	Keys     []passport.Key
	// Mounted is a token for calls to risky tools that present none at the proxy's
	// doors, "" for none. It is offered, not presented: where it is not good for
	// the call, the call stands as if there were none.
	Mounted string
}

func (a *Authority) find(kid string) (ed25519.PublicKey, bool) {
	for _, k := range a.Keys {
		if k.ID == kid {
			return k.Private.Public().(ed25519.PublicKey), true
		}
	}
	return nil, false
}

// SetAuthority swaps the passport authority. Without one every passport is
// invalid.
func (g *Gate) SetAuthority(a *Authority) {
	g.authority.Store(a)
}

// JWKS are the public keys, for those who verify elsewhere.
func (g *Gate) JWKS() passport.JWKS {
	set := passport.JWKS{Keys: []passport.JWK{}}
	if a := g.authority.Load(); a != nil {
		for _, k := range a.Keys {
			set.Keys = append(set.Keys, passport.PublicJWK(k.ID, k.Private.Public().(ed25519.PublicKey)))
		}
	}
	return set
}

// verifiedTokens remembers whose signature was checked: an agent presents the
// same token until it is used. Times and revocation are looked at each time.
type verifiedTokens struct {
	mu sync.RWMutex
	by *Authority // whose keys they were checked with: dropped keys vouch for nothing
	m  map[string]*passport.Claims
	// size is the tokens' length together: claims take a few times as much.
	size int
}

// Bounds of what is remembered: tokens, and their length together in bytes. Most have
// less than 1 KiB, but whoever may issue can make them of 16.
const (
	maxVerified     = 4096
	maxVerifiedSize = 4 << 20
)

func (v *verifiedTokens) get(a *Authority, token string) *passport.Claims {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.by != a {
		return nil
	}
	return v.m[token]
}

// put remembers what a's keys verified. A verification that a change of keys
// overtook must not put its token among those of the new ones; at worst it
// empties the memory, and they are verified again.
func (v *verifiedTokens) put(a *Authority, token string, c *passport.Claims) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.m == nil || v.by != a || len(v.m) >= maxVerified || v.size+len(token) > maxVerifiedSize {
		v.m, v.by, v.size = make(map[string]*passport.Claims), a, 0
	}
	if v.m[token] == nil {
		v.size += len(token)
	}
	v.m[token] = c
}

// verify checks token against the authority; audience "" is the authority's own.
func (g *Gate) verify(token, audience string) (*passport.Claims, error) {
	a := g.authority.Load()
	if a == nil {
		return nil, &passport.Error{Code: ReasonPassportInvalid, Detail: "this sidecar has no passport authority"}
	}
	want := passport.Expect{Issuer: a.Issuer, Audience: a.Audience, Now: g.now()}
	if audience != "" {
		want.Audience = audience
	}
	if c := g.verified.get(a, token); c != nil {
		return c, c.Current(want)
	}
	c, err := passport.Verify(token, a.find, want)
	if err == nil {
		g.verified.put(a, token, c)
	}
	return c, err
}

// present verifies the passport that a call shows, before anything is decided:
// its claims say for whom and to which goal the call is made.
func (g *Gate) present(ctx context.Context, c *call) {
	if c.Passport == "" {
		g.offer(ctx, c)
		return
	}
	if strings.ContainsRune(c.Passport, ',') {
		c.passportErr = &passport.Error{Code: ReasonPassportInvalid, Detail: "the request carries more than one passport; present the one that is for this call"}
		return
	}
	claims, err := g.good(ctx, c, c.Passport)
	if err != nil {
		c.passportErr = err
		return
	}
	c.token = c.Passport
	c.bear(claims)
}

// good verifies a token for the one who calls.
func (g *Gate) good(ctx context.Context, c *call, token string) (*passport.Claims, error) {
	claims, err := g.verify(token, "")
	switch {
	case err != nil:
		return nil, err
	case claims.TenantID != c.Identity.TenantID:
		return nil, &passport.Error{Code: passport.ReasonTenant, Detail: fmt.Sprintf("it is for tenant %q, and the caller belongs to another", claims.TenantID)}
	case c.Identity.AgentID != "" && claims.AgentID != c.Identity.AgentID:
		return nil, &passport.Error{Code: passport.ReasonAgent, Detail: fmt.Sprintf("it is for agent %q, and the call is made by %q", claims.AgentID, c.Identity.AgentID)}
	}
	return claims, g.unused(ctx, c, claims.ID)
}

// offer takes the mounted passport for a call to a risky tool, if it is good for
// it. Why it is not is noted, for whoever wonders at passport.required.
func (g *Gate) offer(ctx context.Context, c *call) {
	a := g.authority.Load()
	if a == nil || a.Mounted == "" || c.Door == DoorAPI || !slices.ContainsFunc(c.reading.Calls, func(one mapping.Call) bool { return risky(one.Risk) }) {
		return
	}
	claims, err := g.good(ctx, c, a.Mounted)
	if err == nil {
		was := *c.Request
		c.bear(claims)
		if err = c.permitted(c.requestHash()); err == nil {
			c.token = a.Mounted
			return
		}
		*c.Request, c.claims = was, nil
	}
	c.event.Notes = append(c.event.Notes, clipTo("the mounted passport is not good for this call: "+err.Error(), 512))
}

// bear makes the claims those of the call.
func (c *call) bear(claims *passport.Claims) {
	c.claims = claims
	c.Identity.AgentID, c.Identity.Source = claims.AgentID, SourcePassport
	if claims.UserID != "" {
		c.UserID = claims.UserID
	}
	if claims.Goal != "" {
		c.Goal = claims.Goal
	}
}

// unused looks whether the passport was used or revoked. The use itself is
// claimed when the call leaves.
func (g *Gate) unused(ctx context.Context, c *call, jti string) error {
	usedBy, revoked, err := g.store.PassportState(ctx, c.Identity.TenantID, jti)
	switch {
	case err != nil:
		g.Fault("store", fmt.Errorf("look up passport %s: %w", jti, err))
		return &passport.Error{Code: ReasonStore, Detail: "the passport could not be checked for use and revocation, because the store did not answer"}
	case revoked:
		return &passport.Error{Code: passport.ReasonRevoked, Detail: "it was revoked"}
	case usedBy != "":
		return &passport.Error{Code: passport.ReasonReplayed, Detail: "it was used already, by event " + usedBy}
	}
	return nil
}

// holdPassport holds the claims against every call of the request, and says what
// the verdict makes of it.
func (c *call) holdPassport(v *verdict, requestHash string) {
	v.passport = passportUnneeded
	switch {
	case c.offered():
		v.passport = passportValid
		return
	case c.Passport == "":
		if risky(v.risk) {
			v.passport = passportAbsent
		}
		return
	case c.passportErr == nil:
		if requestHash == "" {
			requestHash = c.claims.ApprovalHash // no bytes: approvedBy holds the arguments against it
		}
		c.passportErr = c.permitted(requestHash)
	}
	if c.passportErr != nil {
		v.passport, v.passportErr = passportInvalid, c.passportErr
		return
	}
	v.passport = passportValid
}

// offered says that the claims are those of the mounted passport, which was held
// against the call already.
func (c *call) offered() bool { return c.Passport == "" && c.claims != nil }

// permitted holds the claims against every call of the request. All must fit, and
// one only may do something: under an amount for one use, a batch of a hundred would
// move a hundred times the amount. The passport of an approval is for exactly these
// calls, which a human has seen.
func (c *call) permitted(requestHash string) error {
	acts := 0
	for i := range c.reading.Calls {
		one := &c.reading.Calls[i]
		if one.Risk != mapping.RiskLow {
			acts++
		}
		err := c.claims.Permits(&passport.Action{
			TenantID: c.Identity.TenantID, AgentID: c.Identity.AgentID, Tool: one.Tool, Resource: one.Resource,
			Risk: one.Risk, Args: one.Args, RequestHash: requestHash,
		})
		if err != nil {
			return err
		}
	}
	if acts > 1 && c.claims.ApprovalHash == "" {
		return &passport.Error{Code: ReasonPassportBatch, Detail: fmt.Sprintf("it is for one action, and the request holds %d; send each by itself, under a passport of its own", acts)}
	}
	return nil
}

// approvedBy lets the passport that an approval minted satisfy the rule that
// asked for it. The approval itself is consumed when the call leaves, so the
// passport and the held call's own retry share one use.
func (g *Gate) approvedBy(ctx context.Context, c *call, v *verdict) {
	if v.passport != passportValid || c.claims.ApprovalHash == "" || v.effect != policy.RequireApproval && c.Door != DoorAPI {
		return
	}
	id := approvalID(c.claims.ID)
	a, err := g.store.GetApproval(ctx, c.Identity.TenantID, id)
	switch {
	case errors.Is(err, ErrNotFound):
		err = &passport.Error{Code: passport.ReasonRequest, Detail: "the approval that it was made for is not known here"}
	case err != nil:
		g.Fault("store", fmt.Errorf("look up approval %s: %w", id, err))
		err = &passport.Error{Code: ReasonStore, Detail: "the passport's approval could not be looked up, because the store did not answer"}
	case a.State != ApprovalApproved:
		err = &passport.Error{Code: passport.ReasonReplayed, Detail: "the approval that it was made for is " + a.State}
	case c.Door == DoorAPI && !g.sameAction(c, &a):
		err = &passport.Error{Code: passport.ReasonRequest, Detail: "it was made for one exact request, and this is another"}
	case v.effect != policy.RequireApproval:
		return
	case a.RuleHash != v.policy.RuleHash && askedBy(callOf(a.Fingerprint), v.policy.RuleHash) != a.Fingerprint:
		return // another rule asks now: a new hold
	}
	if err != nil {
		v.passport, v.passportErr, c.passportErr = passportInvalid, err, err
		return
	}
	v.effect, c.approval = policy.Allow, id
	v.policy.Summary = fmt.Sprintf("%s Approved as %s.", v.policy.Summary, id)
	v.policy.NextSteps = nil
}

// sameArgs says whether a preflight, which has no bytes, asks about the arguments
// that were approved. They are compared as they are on record, where a secret is
// its keyed hash; what was cut there cannot be compared, and is not the same.
// sameAction says that a preflight is about the very action that was approved:
// the one that was asked for, idempotency key and all, or, where a call at
// another door was held, its tool, resource and arguments.
func (g *Gate) sameAction(c *call, a *Approval) bool {
	one := &c.reading.Calls[0]
	if a.Request == nil {
		mine, err := fingerprintPreflight(c.Identity, one.Tool, one.Resource, one.Args, c.idempotency)
		return err == nil && mine == callOf(a.Fingerprint)
	}
	return one.Tool == a.Tool && one.Resource == a.Resource && g.sameArgs(c, a)
}

func (g *Gate) sameArgs(c *call, a *Approval) bool {
	one := &c.reading.Calls[0]
	asked, err := json.Marshal(evidence.Redact(one.Args, one.Secret, g.redactKey))
	if err != nil || bytes.Contains(asked, []byte(`"`+evidence.OmittedKey+`"`)) {
		return false
	}
	approved, err := json.Marshal(a.Args)
	return err == nil && (bytes.Equal(asked, approved) || len(one.Args) == 0 && len(a.Args) == 0)
}

func approvalID(jti string) string { return "apr_" + strings.TrimPrefix(jti, "ap_") }

// claim takes the single uses that a call stands on, durably: of its approval,
// and of its passport. A call that uses up an approval is on record by then. The
// order is that of loss: a crash between the two loses the approval, never doubles
// it.
func (g *Gate) claim(ctx context.Context, c *call) error {
	if c.approval != "" {
		if _, err := g.store.Consume(ctx, c.Identity.TenantID, c.approval, c.id, g.now()); err != nil {
			if errors.Is(err, ErrIllegalState) {
				return &passport.Error{Code: ReasonConsumed, Detail: "the approval " + c.approval + " was used already, or is past its time"}
			}
			g.Fault("store", fmt.Errorf("use approval %s: %w", c.approval, err))
			return &passport.Error{Code: ReasonStore, Detail: "the approval could not be used, because the store did not answer"}
		}
		c.consumed = true
		g.flying.start(c.approval)
		g.recordTransitions(ctx)
		g.waits.wake(c.approval)
		c.out.Once = true
	}
	if c.claims == nil || c.verdict.passport != passportValid {
		return nil
	}
	err := g.store.ClaimPassport(ctx, c.Identity.TenantID, c.claims.ID, c.id, g.now(), c.claims.ExpiresAt.Add(passport.Leeway))
	if err == nil {
		c.claimed = c.claims.ID
		return nil
	}
	if c.offered() {
		// Another call was quicker. This one presented nothing: it is refused where it
		// needs one, and goes on elsewhere.
		if c.verdict.passport = passportAbsent; c.verdict.do(c.mode) != enforceBlock {
			c.claims, c.event.PassportJTI = nil, ""
			return nil
		}
	}
	switch {
	case errors.Is(err, ErrRevoked):
		return &passport.Error{Code: passport.ReasonRevoked, Detail: "it was revoked"}
	case errors.Is(err, ErrIllegalState):
		return &passport.Error{Code: passport.ReasonReplayed, Detail: "it was used already"}
	}
	g.Fault("store", fmt.Errorf("claim passport %s: %w", c.claims.ID, err))
	return &passport.Error{Code: ReasonStore, Detail: "the passport's use could not be stored, because the store did not answer"}
}

// unclaim gives back the use of a passport whose call was never sent.
func (g *Gate) unclaim(tenant, jti, eventID string) {
	if jti == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	if err := g.store.ReleasePassport(ctx, tenant, jti, eventID); err != nil {
		// It stays used: the safe side.
		g.Fault("store", fmt.Errorf("give back passport %s: %w", jti, err))
	}
}
