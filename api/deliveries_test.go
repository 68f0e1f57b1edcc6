package api

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/notify"
)

// fakeChannels has one dead delivery of tenant acme.
type fakeChannels struct {
	asked   notify.DeliveryQuery
	retried string
	err     error // of Callback
}

func (f *fakeChannels) Deliveries(_ context.Context, q notify.DeliveryQuery) ([]notify.Delivery, string, error) {
	f.asked = q
	return []notify.Delivery{{ID: "dlv_1", Channel: "ops", TenantID: "acme", ApprovalID: "apr_1", Event: "opened", Time: time.Now(), State: notify.Dead, Attempts: 12, SettledAt: time.Now(), LastStatus: 500, LastError: "the receiver answered 500"}}, "7", nil
}

func (f *fakeChannels) Retry(_ context.Context, actor gate.Identity, id string) (notify.Delivery, error) {
	if id != "dlv_1" || actor.TenantID != "acme" {
		return notify.Delivery{}, gate.ErrNotFound
	}
	if f.retried == id {
		return notify.Delivery{}, gate.ErrIllegalState
	}
	f.retried = id
	return notify.Delivery{ID: id, Channel: "ops", Event: "opened", Time: time.Now(), State: notify.Queued}, nil
}

func (f *fakeChannels) Callback(context.Context, string, http.Header, []byte) (gate.Approval, error) {
	return gate.Approval{}, f.err
}

func (f *fakeChannels) Interaction(context.Context, http.Header, []byte) error { return f.err }

func TestDeliveries(t *testing.T) {
	f := &fakeChannels{}
	a := newAPI(t, func(o *Options) { o.Channels = f })
	const list, retry = "/api/v1/deliveries", "/api/v1/deliveries/dlv_1/retry"
	got := a.call("GET", list+"?state=dead&limit=3&cursor=9", approverKey, "")
	got.want(t, 200, "", "")
	if f.asked != (notify.DeliveryQuery{TenantID: "acme", State: "dead", Cursor: "9", Limit: 3}) || got.at("next_cursor") != "7" || len(got.at("data").([]any)) != 1 {
		t.Errorf("%+v %s", f.asked, got.body)
	}
	a.call("GET", list+"?state=lost", approverKey, "").want(t, 400, "invalid_request", "state")
	a.call("GET", list, gatewayKey, "").want(t, 403, "forbidden", "")
	a.call("POST", retry, approverKey, "").want(t, 403, "forbidden", "")
	a.call("POST", "/api/v1/deliveries/dlv_2/retry", adminKey, "").want(t, 404, "not_found", "")
	a.call("POST", "/api/v1/deliveries/apr_2/retry", adminKey, "").want(t, 404, "not_found", "")
	if got := a.call("POST", retry, adminKey, ""); got.at("state") != "queued" {
		t.Errorf("%s", got.body)
	}
	a.call("POST", retry, adminKey, "").want(t, 409, "delivery.illegal_state", "")

	none := newAPI(t, func(*Options) {})
	if got := none.call("GET", list, adminKey, ""); got.status != 200 {
		t.Errorf("%d %s", got.status, got.body)
	}
	none.call("POST", retry, adminKey, "").want(t, 404, "not_found", "")
}
