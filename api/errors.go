package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/gate"
)

// Error is an answer of the API that is not a success; the body is
// {"error":{"code","message","field"}}. The Client returns it, too.
type Error struct {
	Status     int           // HTTP status
	Code       string        // stable, dotted
	Message    string        // a sentence for people
	Field      string        // of the request, "" when it is about none
	RequestID  string        // X-Request-Id of the answer
	RetryAfter time.Duration // 0: not said
	Progress   float64       // with ReadingCode: the share of the record that is read, 0 to 1
	cause      error         // for the log, never shown
}

func (e *Error) Error() string {
	s := e.Message
	if e.Field != "" {
		s = e.Field + ": " + s
	}
	return s
}

func (e *Error) Unwrap() error { return e.cause }

type errorBody struct {
	Error errorDetail `json:"error"`
}

type errorDetail struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Field   string `json:"field,omitempty"`
	// Progress is how far the sidecar is with what it was asked for, 0 to 1.
	Progress float64 `json:"progress,omitempty"`
}

func invalid(field, message string) *Error {
	return &Error{Status: http.StatusBadRequest, Code: "invalid_request", Message: message, Field: field}
}

// about gives the error of the gate the codes of what the call was about: an
// illegal state of an approval is approval.illegal_state. down is the code when
// the gate could not answer at all.
func about(subject, down string, err error) error {
	if err == nil {
		return nil
	}
	var field *gate.FieldError
	var said *Error
	switch {
	case errors.As(err, &said):
		return said
	case errors.As(err, &field):
		return invalid(field.Field, field.Message)
	case errors.Is(err, gate.ErrNotFound):
		return &Error{Status: http.StatusNotFound, Code: "not_found", Message: "there is no such " + strings.ReplaceAll(subject, "_", " "), cause: err}
	case errors.Is(err, gate.ErrIllegalState):
		message := err.Error()
		var state *gate.StateError
		if errors.As(err, &state) {
			message = state.Message // without the steps that led there
		}
		return &Error{Status: http.StatusConflict, Code: subject + ".illegal_state", Message: message, cause: err}
	case errors.Is(err, gate.ErrNotAllowed):
		return &Error{Status: http.StatusForbidden, Code: subject + ".not_allowed", Message: err.Error(), cause: err}
	case errors.Is(err, gate.ErrTooManyOfAgent):
		return &Error{Status: http.StatusTooManyRequests, Code: subject + ".too_many_of_agent", Message: err.Error(), cause: err, RetryAfter: 5 * time.Second}
	case errors.Is(err, gate.ErrTooMany):
		return &Error{Status: http.StatusTooManyRequests, Code: subject + ".too_many", Message: err.Error(), cause: err, RetryAfter: 5 * time.Second}
	case errors.Is(err, gate.ErrUnavailable):
		return unavailable(evidenceDown, err)
	case errors.Is(err, context.Canceled):
		return err
	}
	return unavailable(down, err)
}

// Codes of a 503: what the sidecar could not reach.
const (
	storeDown    = "store.unavailable"
	evidenceDown = "evidence.unavailable"
)

func unavailable(code string, err error) *Error {
	message := "the store does not answer, so nothing was done; try again, and see the sidecar's log for the cause"
	if code == evidenceDown {
		message = "the evidence log or the store behind it cannot be used, so nothing was done; try again, and see the sidecar's log for the cause"
	}
	return &Error{Status: http.StatusServiceUnavailable, Code: code, Message: message, RetryAfter: time.Second, cause: err}
}

// fail renders err. What is not an *Error is a fault of ours: the client gets
// no detail of it, the log does.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	var e *Error
	if !errors.As(err, &e) {
		if r.Context().Err() != nil {
			note(r).gone = true
			return // nobody is listening any more
		}
		e = &Error{Status: http.StatusInternalServerError, Code: "internal", Message: "the sidecar failed at this call; its log says why under request id " + note(r).requestID, cause: err}
	}
	if e.Status >= 500 && e.Code != ReadingCode {
		s.Logger.Error("api call failed", zap.String("request_id", note(r).requestID), zap.String("path", r.URL.Path), zap.String("code", e.Code), zap.NamedError("cause", e.cause))
		if e.Code == "internal" {
			s.Gate.Fault("api", err) // what the store and the log could not do, the gate has counted
		}
	}
	if e.Status == http.StatusUnauthorized && e.Code == "unauthenticated" {
		w.Header().Set("WWW-Authenticate", `Bearer realm="actpass"`)
	}
	if e.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((e.RetryAfter+time.Second-1)/time.Second)))
	}
	if e.Status == http.StatusRequestEntityTooLarge {
		w.Header().Set("Connection", "close") // the rest of the body is not read
	}
	_ = writeJSON(w, e.Status, errorBody{errorDetail{Code: e.Code, Message: e.Message, Field: e.Field, Progress: e.Progress}})
}

func writeJSON(w http.ResponseWriter, status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)+1))
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // the client may be gone; there is nobody to tell
	return nil
}

// Page is every list.
type Page[T any] struct {
	Data []T    `json:"data"`
	Next string `json:"next_cursor"` // "" at the end
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "..."
}
