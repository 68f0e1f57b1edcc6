package api

import (
	"context"
	"net/http"
	"net/url"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/notify"
)

// Channels is what the API asks of the notifier; *notify.Notifier satisfies it.
type Channels interface {
	Deliveries(ctx context.Context, q notify.DeliveryQuery) ([]notify.Delivery, string, error)
	Retry(ctx context.Context, actor gate.Identity, id string) (notify.Delivery, error)
	Callback(ctx context.Context, name string, h http.Header, body []byte) (gate.Approval, error)
	Interaction(ctx context.Context, h http.Header, body []byte) error
}

var _ Channels = (*notify.Notifier)(nil)

// Delivery is one event of an approval on its way to one channel.
type Delivery struct {
	ID         string         `json:"id"`
	Channel    string         `json:"channel"`
	ApprovalID string         `json:"approval_request_id"`
	Event      string         `json:"event"` // opened, voted, escalated, decided, expired, consumed, cancelled
	Time       evidence.Time  `json:"time"`  // of the event
	State      string         `json:"state"` // queued, delivered, dead
	Attempts   int            `json:"attempts"`
	NextAt     *evidence.Time `json:"next_at"`    // of the next attempt; null: at once, or none
	SettledAt  *evidence.Time `json:"settled_at"` // when it was delivered or given up
	LastStatus int            `json:"last_status"`
	LastError  string         `json:"last_error"`
}

// DeliveryOf renders d.
func DeliveryOf(d notify.Delivery) Delivery {
	return Delivery{
		ID: d.ID, Channel: d.Channel, ApprovalID: d.ApprovalID, Event: d.Event, Time: evidence.Time{Time: d.Time}, State: d.State,
		Attempts: d.Attempts, NextAt: moment(d.NextAt), SettledAt: moment(d.SettledAt), LastStatus: d.LastStatus, LastError: d.LastError,
	}
}

func (s *server) listDeliveries(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	q, err := readQuery(r, "state", "limit", "cursor")
	if err != nil {
		return err
	}
	limit, err := q.limit()
	if err != nil {
		return err
	}
	state, err := q.oneOf("state", notify.Queued, notify.Delivered, notify.Dead)
	if err != nil {
		return err
	}
	p := Page[Delivery]{Data: []Delivery{}}
	if s.Channels != nil {
		found, next, err := s.Channels.Deliveries(r.Context(), notify.DeliveryQuery{TenantID: id.TenantID, State: state, Cursor: q["cursor"], Limit: limit})
		if err != nil {
			return about("delivery", storeDown, err)
		}
		p.Next = next
		for _, d := range found {
			p.Data = append(p.Data, DeliveryOf(d))
		}
	}
	return writeJSON(w, http.StatusOK, p)
}

// retryDelivery sends a dead one again.
func (s *server) retryDelivery(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	key, err := pathID(r, "dlv_", "delivery")
	if err != nil {
		return err
	}
	if s.Channels == nil {
		return about("delivery", storeDown, gate.ErrNotFound)
	}
	d, err := s.Channels.Retry(r.Context(), id, key)
	if err != nil {
		return about("delivery", storeDown, err)
	}
	return writeJSON(w, http.StatusOK, DeliveryOf(d))
}

// Deliveries lists deliveries, newest first; state "" is all.
func (c *Client) Deliveries(ctx context.Context, state, cursor string, limit int) (p Page[Delivery], err error) {
	q := paging(cursor, limit)
	set(q, "state", state)
	err = c.call(ctx, http.MethodGet, "/api/v1/deliveries", q, nil, &p)
	return p, err
}

// RetryDelivery sends a dead delivery again.
func (c *Client) RetryDelivery(ctx context.Context, id string) (d Delivery, err error) {
	err = c.call(ctx, http.MethodPost, "/api/v1/deliveries/"+url.PathEscape(id)+"/retry", nil, nil, &d)
	return d, err
}
