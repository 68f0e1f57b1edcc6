package gate

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/policy"
)

// LimitUse is what one limit holds under one key, now.
type LimitUse struct {
	Limit *policy.Limit
	Key   string // "" for a limit under which nothing is held
	Used  int64
	Left  int64 // not below 0
	// First and Last are the times of the oldest and the newest use that count;
	// zero when nothing is held.
	First, Last time.Time
	// Since and Until bound a calendar window; zero for one that slides.
	Since, Until time.Time
}

// Empty is when nothing will be held any more, if nothing is used until then.
func (u *LimitUse) Empty() time.Time {
	switch {
	case u.Key == "":
		return time.Time{}
	case !u.Until.IsZero():
		return u.Until
	}
	return u.Last.Add(u.Limit.Window)
}

// LimitQuery selects limits.
type LimitQuery struct {
	Limit  string // "policy/name", or the name alone; "" for all
	Key    string // one key, as policy.Reservation has it; with it, Limit is needed
	Cursor string
	Count  int // of the longest page
}

// Limits lists what the limits of the policy in force hold, by limit in the
// order of the policy files, and by key. A limit that holds nothing is one entry
// without a key. ErrNotFound when Limit names none.
func (g *Gate) Limits(ctx context.Context, actor Identity, q LimitQuery) (list []LimitUse, next string, err error) {
	limits, err := g.limitsNamed(q.Limit)
	if err != nil {
		return nil, "", err
	}
	if q.Key != "" {
		if len(limits) != 1 {
			return nil, "", &FieldError{"key", "needs one limit: name it as policy/limit"}
		}
		if q.Key, err = limits[0].ParseKey(q.Key); err != nil {
			return nil, "", &FieldError{"key", err.Error()}
		}
	}
	at, after, err := parseLimitCursor(q.Cursor, limits)
	if err != nil {
		return nil, "", err
	}
	if q.Count <= 0 || q.Count > maxLimitPage {
		q.Count = maxLimitPage
	}
	now := g.limitTime()
	for ; at < len(limits); at, after = at+1, "" {
		room := q.Count - len(list)
		if room == 0 {
			return list, limitCursor(limits[at], ""), nil
		}
		l := limits[at]
		// One more than there is room for tells whether there are more.
		held, err := g.store.Held(ctx, actor.TenantID, limitUse(l, q.Key, now), after, room+1, now)
		if err != nil {
			return nil, "", fmt.Errorf("list limit %s: %w", l.ID(), err)
		}
		more := len(held) > room
		for _, h := range held[:min(len(held), room)] {
			list = append(list, limitUseOf(l, h, now))
		}
		if more {
			return list, limitCursor(l, held[room-1].Key), nil
		}
		if len(held) == 0 && after == "" {
			list = append(list, limitUseOf(l, Held{}, now))
		}
	}
	return list, "", nil
}

const maxLimitPage = 200

func limitUseOf(l *policy.Limit, h Held, now time.Time) LimitUse {
	u := LimitUse{Limit: l, Key: h.Key, Used: h.Used, Left: max(l.Max-h.Used, 0), First: h.First, Last: h.Last}
	u.Since, u.Until = l.Bounds(now)
	return u
}

// limitsNamed finds the limits of the policy in force by name.
func (g *Gate) limitsNamed(name string) ([]*policy.Limit, error) {
	rules := g.rules.Load()
	if rules == nil || rules.Policy == nil {
		return nil, fmt.Errorf("%w: no policy is loaded yet", ErrUnavailable)
	}
	all := rules.Policy.Limits()
	if name == "" {
		return all, nil
	}
	all = slices.DeleteFunc(all, func(l *policy.Limit) bool { return l.ID() != name && l.Name != name })
	if len(all) == 0 {
		return nil, fmt.Errorf("no policy in force has a limit %s: %w", strconv.Quote(clip(name)), ErrNotFound)
	}
	return all, nil
}

func limitCursor(l *policy.Limit, after string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(l.ID() + " " + after))
}

func parseLimitCursor(cursor string, limits []*policy.Limit) (at int, after string, err error) {
	if cursor == "" {
		return 0, "", nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(cursor)
	id, after, ok := strings.Cut(string(raw), " ")
	if err == nil && ok {
		if at = slices.IndexFunc(limits, func(l *policy.Limit) bool { return l.ID() == id }); at >= 0 {
			return at, after, nil
		}
	}
	return 0, "", &FieldError{"cursor", "is not one that this list gave, or the policy has changed; start again without it"}
}

// ResetLimit forgets what a limit holds under one key, or under all when key is
// "", and gives what that was. Shares of calls that are on their way are
// forgotten, too. The event stands before anything is forgotten. ErrNotFound
// when there is no such limit, a *FieldError when the name is that of several.
func (g *Gate) ResetLimit(ctx context.Context, actor Identity, name, key, reason string) ([]LimitUse, error) {
	if actor.Role != RoleAdmin {
		return nil, fmt.Errorf("reset a limit: %w: the role admin is needed", ErrNotAllowed)
	}
	if name == "" {
		return nil, &FieldError{"limit", "is required: the limit to reset, as policy/limit"}
	}
	limits, err := g.limitsNamed(name)
	if err != nil {
		return nil, err
	}
	if len(limits) > 1 {
		return nil, &FieldError{"limit", "is the name of several limits: write it as policy/limit, such as " + limits[0].ID()}
	}
	l, now := limits[0], g.limitTime()
	if key != "" {
		if key, err = l.ParseKey(key); err != nil {
			return nil, &FieldError{"key", err.Error()}
		}
	}
	use := limitUse(l, key, now)
	held, err := g.store.Held(ctx, actor.TenantID, use, "", maxLimitPage, now)
	if err != nil {
		return nil, fmt.Errorf("look at limit %s: %w", l.ID(), err)
	}
	data := map[string]string{"limit": l.ID(), "keys": strconv.Itoa(len(held)), "actor": actor.KeyID}
	if len(held) == maxLimitPage {
		data["keys"] += " or more"
	}
	if actor.KeyID == "" {
		data["actor"] = actor.Source
	}
	if reason != "" {
		data["reason"] = clipTo(reason, 1024)
	}
	what := "under every key"
	if key != "" {
		data["key"], what = clip(key), "under one key"
		data["used"] = l.Used(key, 0)
	}
	for i, h := range held {
		// What was wiped must be told, but an event has its bounds.
		if key != "" {
			data["used"] = l.Used(h.Key, h.Used)
		} else if i < 20 {
			data["used."+strconv.Itoa(i+1)] = clip(h.Key) + ": " + l.Used(h.Key, h.Used)
		}
	}
	// If we crash here, the record tells of a reset that did not happen, which can
	// be seen and repeated; the other way round nobody would know of one that did.
	if err := g.noteFor(ctx, actor, evidence.KindConfig, "limit "+l.ID()+" is reset "+what, data); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	gone, err := g.store.ResetLimit(ctx, actor.TenantID, use, now)
	if err != nil {
		err = fmt.Errorf("reset limit %s: %w", l.ID(), err)
		return nil, errors.Join(err, g.noteFor(ctx, actor, evidence.KindConfig, "limit "+l.ID()+" could not be reset", data))
	}
	g.log.Info("limit reset", zap.String("limit", l.ID()), zap.String("key", key), zap.String("actor", data["actor"]))
	list := make([]LimitUse, len(gone))
	for i, h := range gone {
		list[i] = limitUseOf(l, h, now)
	}
	return list, nil
}
