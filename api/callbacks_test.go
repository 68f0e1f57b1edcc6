package api

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/notify"
)

// signedCall sends a call without a key, as channels do.
func signedCall(h http.Handler, path, contentType, body string) (int, string) {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

// TestWordsOverChannels: what the notifier says becomes the API's answers; what is
// no call of a channel does not reach it.
func TestWordsOverChannels(t *testing.T) {
	const hook, slack, form = "/api/v1/callbacks/ops", "/api/v1/slack/interactions", "application/x-www-form-urlencoded"
	f := &fakeChannels{}
	a := newAPI(t, func(o *Options) { o.Channels = f })
	h := New(a.opt)
	for _, c := range []struct {
		err    error
		status int
		code   string
	}{
		{nil, 200, ""},
		{notify.ErrReplayed, 409, "callback.replayed"},
		{notify.ErrActor, 403, "callback.unknown_actor"},
		{gate.ErrNotAllowed, 403, "approval.not_allowed"},
		{gate.ErrIllegalState, 409, "approval.illegal_state"},
		{gate.ErrNotFound, 404, "not_found"},
		{&gate.FieldError{Field: "actor", Message: "m"}, 400, "invalid_request"},
		{errors.New("disk full"), 503, "store.unavailable"},
		{notify.ErrSignature, 401, "callback.signature"},
	} {
		f.err = c.err
		for path, kind := range map[string]string{hook: "application/json", slack: form} {
			if status, body := signedCall(h, path, kind, "{}"); status != c.status || !strings.Contains(body, c.code) || strings.Contains(body, "disk full") {
				t.Errorf("%s, %v: %d %s", path, c.err, status, body)
			}
		}
	}
	f.err = nil
	large := strings.Repeat("x", maxCallback+1)
	for _, c := range []struct {
		path, kind, body string
		status           int
	}{
		{hook, form, "{}", 415},
		{slack, "application/json", "{}", 415},
		{hook, "application/json", large, 413},
		{slack, form, large, 413},
		{slack + "?payload=x", form, "", 400},
	} {
		if status, body := signedCall(h, c.path, c.kind, c.body); status != c.status {
			t.Errorf("%s: %d %s", c.path, status, body)
		}
	}
	f.err = notify.ErrSignature
	status := 0
	for range failuresPerWindow + 1 {
		status, _ = signedCall(h, hook, "application/json", "{}")
	}
	if status != 429 {
		t.Errorf("after many without a good signature: %d", status)
	}
	f.err = nil
	if status, _ := signedCall(h, hook, "application/json", "{}"); status != 200 {
		t.Errorf("a good one from the same address: %d", status)
	}
	if status, _ := signedCall(New(newAPI(t).opt), hook, "application/json", "{}"); status != 401 {
		t.Errorf("without channels: %d", status)
	}
}
