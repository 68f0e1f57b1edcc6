package api

import (
	"errors"
	"io"
	"mime"
	"net/http"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/notify"
)

// maxCallback is the largest body of a callback, in bytes. It is read before
// anybody has shown who they are.
const maxCallback = 256 << 10

// callback takes a person's word over a webhook's channel. The route is open: the
// signature stands for the key.
func (s *server) callback(w http.ResponseWriter, r *http.Request, _ gate.Identity) error {
	if err := jsonContent(r); err != nil {
		return err
	}
	body, err := s.signed(w, r)
	if err != nil {
		return err
	}
	a, err := s.Channels.Callback(r.Context(), r.PathValue("name"), r.Header, body)
	if err != nil {
		return s.unheard(r, err)
	}
	return writeJSON(w, http.StatusOK, ApprovalOf(a, s.Now()))
}

// slackInteraction takes a pressed button. The route is open: Slack's signature
// stands for the key.
func (s *server) slackInteraction(w http.ResponseWriter, r *http.Request, _ gate.Identity) error {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != "application/x-www-form-urlencoded" || len(r.Header.Values("Content-Type")) != 1 || len(r.Header.Values("Content-Encoding")) != 0 {
		return &Error{Status: http.StatusUnsupportedMediaType, Code: "unsupported_media_type", Message: "the body must be a form, as Slack sends it"}
	}
	body, err := s.signed(w, r)
	if err != nil {
		return err
	}
	if err := s.Channels.Interaction(r.Context(), r.Header, body); err != nil {
		return s.unheard(r, err)
	}
	w.WriteHeader(http.StatusOK) // an empty answer leaves the message as it is
	return nil
}

// signed reads the body of a signed call, byte for byte.
func (s *server) signed(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.URL.RawQuery != "" {
		return nil, invalid("", "this call takes no parameters")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxCallback))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, &Error{Status: http.StatusRequestEntityTooLarge, Code: "payload_too_large", Message: "the body is larger than 256 KiB"}
	case err != nil && r.Context().Err() == nil:
		return nil, invalid("", "the body broke off while it was read")
	case err == nil && s.Channels == nil:
		err = s.unheard(r, notify.ErrSignature)
	}
	return body, err
}

// unheard is why a word did not count.
func (s *server) unheard(r *http.Request, err error) error {
	switch {
	case errors.Is(err, notify.ErrSignature):
		if wait := s.limiter.failed(remote(r), s.Now()); wait > 0 {
			return &Error{Status: http.StatusTooManyRequests, Code: "too_many_requests", Message: "too many calls from this address without a good signature; wait before the next one", RetryAfter: wait}
		}
		return &Error{Status: http.StatusUnauthorized, Code: "callback.signature", Message: "no channel of that name has signed this: the signature is missing, wrong or more than five minutes away", cause: err}
	case errors.Is(err, notify.ErrReplayed):
		return &Error{Status: http.StatusConflict, Code: "callback.replayed", Message: "this was taken before, and nothing was done again; another word needs another ActPass-Delivery", cause: err}
	case errors.Is(err, notify.ErrActor):
		return &Error{Status: http.StatusForbidden, Code: "callback.unknown_actor", Message: "the configuration gives this actor no key, so its word does not count", Field: "actor", cause: err}
	}
	return about("approval", storeDown, err)
}
