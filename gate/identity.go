package gate

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/actpass/sidecar/evidence"
)

// Sources of an identity, in falling order of trust.
const (
	SourcePassport = "passport"
	SourceKey      = "api_key"
	SourceConfig   = "config"
)

// Identity is who calls, and how that is known. The tenant comes from the key
// or the configuration, never from the request.
type Identity struct {
	TenantID   string
	AgentID    string
	Source     string // passport, api_key, config
	KeyID      string
	Name       string // of the key
	KeyMode    string // tightens
	Role       string
	Groups     []string
	BoundAgent string // the agent that the key speaks for, "" for any
	Ceiling    *Ceiling
}

// keyPrefix starts every secret, so that scanners can find leaked ones.
const keyPrefix = "sk_live_"

// keyFresh is how long a key found in the store is believed without asking
// again: a key that another process revoked works for no longer than this.
const keyFresh = time.Second

// keyStale is how long a key is remembered for the time when the store cannot be
// asked. See LastKnown.
const keyStale = 10 * time.Minute

const maxCachedKeys = 4096

type cachedKey struct {
	key Key
	at  time.Time
}

type keyCache struct {
	mu sync.Mutex
	m  map[[32]byte]cachedKey
}

func (c *keyCache) get(hash [32]byte, now time.Time, most time.Duration) (Key, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.m[hash]
	if age := now.Sub(k.at); !ok || age > most || age < 0 {
		return Key{}, false
	}
	return k.key, true
}

func (c *keyCache) put(hash [32]byte, k Key, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil || len(c.m) >= maxCachedKeys {
		c.m = make(map[[32]byte]cachedKey)
	}
	c.m[hash] = cachedKey{k, now}
}

func (c *keyCache) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m = nil
}

// Authenticate finds the identity behind a key's secret. ErrNotAllowed when it
// is unknown, revoked or expired; another error when the store cannot answer.
// agent is what the caller says it is (the user name of Proxy-Authorization);
// a key bound to another agent is ErrNotAllowed; a key bound to none takes it.
//
// The secret is looked up by its SHA-256: what an attacker could learn from the
// time of a comparison is about a hash whose preimage he does not choose.
func (g *Gate) Authenticate(ctx context.Context, secret, agent string) (Identity, error) {
	if !strings.HasPrefix(secret, keyPrefix) || len(secret) > 256 {
		return Identity{}, fmt.Errorf("%w: not a key of this product", ErrNotAllowed)
	}
	now := g.now()
	hash := sha256.Sum256([]byte(secret))
	k, cached := g.keys.get(hash, now, keyFresh)
	if !cached {
		var err error
		k, err = g.store.KeyByHash(ctx, hash)
		if errors.Is(err, ErrNotFound) {
			return Identity{}, fmt.Errorf("%w: unknown key", ErrNotAllowed)
		}
		if err != nil {
			return Identity{}, fmt.Errorf("look up key: %w", err)
		}
		g.keys.put(hash, k, now)
		if now.Sub(k.LastUsedAt) > time.Minute && k.RevokedAt.IsZero() {
			if err := g.store.TouchKey(ctx, k.ID, now); err != nil {
				g.Fault("store", fmt.Errorf("note the use of key %s: %w", k.ID, err))
			}
		}
	}
	return k.identity(agent, now)
}

// LastKnown is the identity that a key had when the store last answered, up to ten
// minutes ago: for a door that must let a call go on (monitor, warn) while the
// store fails, and would otherwise take the caller for somebody else. A key that
// another process revoked since is not known to be. It answers false when the key
// was not seen, or does not hold.
func (g *Gate) LastKnown(secret, agent string) (Identity, bool) {
	now := g.now()
	k, ok := g.keys.get(sha256.Sum256([]byte(secret)), now, keyStale)
	if !ok {
		return Identity{}, false
	}
	id, err := k.identity(agent, now)
	return id, err == nil
}

// identity is who speaks with a key, or ErrNotAllowed.
func (k *Key) identity(agent string, now time.Time) (Identity, error) {
	switch {
	case !k.RevokedAt.IsZero():
		return Identity{}, fmt.Errorf("%w: the key %s is revoked", ErrNotAllowed, k.ID)
	case !k.ExpiresAt.IsZero() && !now.Before(k.ExpiresAt):
		return Identity{}, fmt.Errorf("%w: the key %s has expired", ErrNotAllowed, k.ID)
	case k.AgentID != "" && agent != "" && agent != k.AgentID:
		return Identity{}, fmt.Errorf("%w: the key %s speaks for agent %q, not %q", ErrNotAllowed, k.ID, k.AgentID, clip(agent))
	}
	id := Identity{
		TenantID: k.TenantID, AgentID: k.AgentID, Source: SourceKey, KeyID: k.ID, Name: k.Name,
		KeyMode: k.Mode, Role: k.Role, Groups: k.Groups, BoundAgent: k.AgentID, Ceiling: k.Ceiling,
	}
	if id.AgentID == "" {
		id.AgentID = agent
	}
	return id, nil
}

// NewKey is the wish for a key.
type NewKey struct {
	Name    string
	Role    string
	AgentID string
	Groups  []string
	Mode    string
	TTL     time.Duration // 0: never expires, unless ExpiresAt says when
	// ExpiresAt is the moment at which it expires, kept as it is; zero: see TTL.
	ExpiresAt time.Time
	Ceiling   *Ceiling // nil: it may not issue passports, unless it is admin's
}

// CreateKey makes a key and records it. The secret is shown once.
func (g *Gate) CreateKey(ctx context.Context, actor Identity, n NewKey) (k Key, secret string, err error) {
	switch {
	case strings.TrimSpace(n.Name) == "" || len(n.Name) > 128:
		return Key{}, "", &FieldError{Field: "name", Message: "a name of 1 to 128 characters is needed"}
	case n.Role != RoleGateway && n.Role != RoleApprover && n.Role != RoleAdmin:
		return Key{}, "", &FieldError{Field: "role", Message: "must be gateway, approver or admin"}
	case n.Mode != "" && !ValidMode(n.Mode):
		return Key{}, "", &FieldError{Field: "mode", Message: "must be monitor, warn, enforce or strict"}
	case n.TTL < 0:
		return Key{}, "", &FieldError{Field: "ttl", Message: "must not be negative"}
	case !n.ExpiresAt.IsZero() && (n.TTL > 0 || !n.ExpiresAt.After(g.now())):
		return Key{}, "", &FieldError{Field: "expires_at", Message: "must be in the future, and stand without a ttl"}
	case len(n.AgentID) > clipLen:
		return Key{}, "", &FieldError{Field: "agent_id", Message: "is too long"}
	}
	if err := n.Ceiling.check(n.Role); err != nil {
		return Key{}, "", err
	}
	var raw [32]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return Key{}, "", fmt.Errorf("make a key: %w", err)
	}
	secret = keyPrefix + base64.RawURLEncoding.EncodeToString(raw[:])
	now := g.now()
	k = Key{
		ID: newID("key_"), TenantID: actor.TenantID, Name: n.Name, Role: n.Role, AgentID: n.AgentID,
		Groups: n.Groups, Mode: n.Mode, Ceiling: n.Ceiling, Prefix: secret[:len(keyPrefix)+4], CreatedAt: now, ExpiresAt: n.ExpiresAt,
	}
	if n.TTL > 0 {
		k.ExpiresAt = now.Add(n.TTL)
	}
	// On record first: a key that exists unrecorded would be worse than a record
	// of a key that was never stored.
	data := map[string]string{"key_id": k.ID, "name": k.Name, "role": k.Role, "agent_id": k.AgentID}
	if k.Ceiling != nil {
		b, err := json.Marshal(k.Ceiling)
		if err != nil {
			return Key{}, "", fmt.Errorf("make a key: %w", err)
		}
		data["ceiling"] = clipTo(string(b), 2048)
	}
	err = g.noteFor(ctx, actor, evidence.KindSystem, "key created", data)
	if err != nil {
		return Key{}, "", err
	}
	if err := g.store.CreateKey(ctx, k, sha256.Sum256([]byte(secret))); err != nil {
		return Key{}, "", fmt.Errorf("store the key: %w", err)
	}
	return k, secret, nil
}

// Keys lists, newest first.
func (g *Gate) Keys(ctx context.Context, actor Identity, cursor string, limit int) ([]Key, string, error) {
	return g.store.Keys(ctx, actor.TenantID, cursor, limit)
}

// RevokeKey revokes and records. It acts at once in this process, and within a
// second in others.
func (g *Gate) RevokeKey(ctx context.Context, actor Identity, id string) (Key, error) {
	k, err := g.store.RevokeKey(ctx, actor.TenantID, id, g.now())
	if err != nil {
		return Key{}, fmt.Errorf("revoke key %s: %w", id, err)
	}
	g.keys.drop()
	return k, g.noteFor(ctx, actor, evidence.KindSystem, "key revoked", map[string]string{"key_id": id, "name": k.Name})
}

// FieldError is a request field that cannot be used.
type FieldError struct{ Field, Message string }

func (e *FieldError) Error() string { return e.Field + ": " + e.Message }
