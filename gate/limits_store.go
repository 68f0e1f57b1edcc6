package gate

import (
	"context"
	"time"
)

// Use is one reservation of a limit.
type Use struct {
	Limit  string // policy and limit name
	Key    string // values of the limit's key, not empty where it is to be listed
	Amount int64
	Max    int64
	// Window is how far back uses count. With Since, it is the longest that the
	// period which began there can be: uses are kept for so long.
	Window time.Duration
	// Since is the beginning of a calendar window, in which now lies; zero for a
	// window that slides.
	Since time.Time
	// Force takes the share though it does not fit.
	Force bool
}

// Held is what one key of a limit holds.
type Held struct {
	Key         string
	Used        int64
	First, Last time.Time // of the uses that count
}

// Reserved is one share that an event, or an approval, took of a limit.
type Reserved struct {
	TenantID string
	EventID  string
	Limit    string
	Key      string
	Amount   int64
}

// LimitStore is the part of a Store that counts limits.
//
// Time is what the caller says. Where it runs back, as after a clock was set
// while nothing ran, the uses of a sliding window keep the age that they had at
// the key's last reservation: nothing becomes free and nothing counts longer. In
// a calendar window those that seem to lie in the future count as of now. A step
// back of less than a second is two callers that do not agree, and moves nothing.
type LimitStore interface {
	// Reserve takes all uses or none, under the id of an event. When one does not
	// fit, the position of the first is returned in over (else -1); used tells what
	// each limit held already. ErrIllegalState when the event has a reservation.
	Reserve(ctx context.Context, tenant, eventID string, uses []Use, now time.Time) (over int, used []int64, err error)
	// ReserveSoon is Reserve that need not wait for the disk: over, used and err are
	// told as soon as they are known, and settled, which is not nil unless err is,
	// waits for the rest. Until settled returns nil nothing may be done on the
	// strength of the answer; after an error of it the shares may be taken or not.
	ReserveSoon(ctx context.Context, tenant, eventID string, uses []Use, now time.Time) (over int, used []int64, settled func() error, err error)
	// ReserveRest takes those uses of whose limit and key the event has no share that
	// counts at now, all or none, beside the shares that it has: an event may come
	// back for more. used tells what others hold of each limit; over is never the
	// position of a use that the event has already. However many ask at once, for one
	// event each is taken once.
	ReserveRest(ctx context.Context, tenant, eventID string, uses []Use, now time.Time) (over int, used []int64, err error)
	// Usage tells what each use's limit holds now, without taking anything.
	Usage(ctx context.Context, tenant string, uses []Use, now time.Time) (used []int64, err error)
	// Release gives back what an event reserved.
	Release(ctx context.Context, tenant, eventID string) error
	// Reservations lists the latest shares that are taken, newest first.
	Reservations(ctx context.Context, limit int) ([]Reserved, error)
	// Held lists the keys of u's limit that hold something in u's window, in the
	// order of their bytes, from after on: u.Key is that key alone where it is set.
	Held(ctx context.Context, tenant string, u Use, after string, limit int, now time.Time) ([]Held, error)
	// ResetLimit forgets all uses of u's limit, under u.Key or, when that is empty,
	// under every key, and tells what was held in u's window. What is released
	// afterwards is not given back a second time.
	ResetLimit(ctx context.Context, tenant string, u Use, now time.Time) ([]Held, error)
}
