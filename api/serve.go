package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"runtime/debug"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/gate"
)

// call is what is known about one call for its log line.
type call struct {
	requestID string
	identity  gate.Identity
	gone      bool
}

type callKey struct{}

// note is the call that r belongs to; every request has passed serve.
func note(r *http.Request) *call { return r.Context().Value(callKey{}).(*call) }

// serve wraps every call: request id, headers, one log line, and a panic that
// costs this one call.
func (s *server) serve(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started := time.Now()
		c := &call{requestID: requestID(r)}
		r = r.WithContext(context.WithValue(r.Context(), callKey{}, c))
		h := w.Header()
		h.Set("X-Request-Id", c.requestID)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Referrer-Policy", "no-referrer")
		sw := &statusWriter{ResponseWriter: w}
		defer func() {
			if p := recover(); p != nil {
				s.Logger.Error("api call panicked", zap.String("request_id", c.requestID), zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
				if sw.status != 0 || p == http.ErrAbortHandler {
					s.Gate.Fault("api", fmt.Errorf("panic: %v", p))
					panic(http.ErrAbortHandler) // half an answer must not look whole
				}
				s.fail(sw, r, fmt.Errorf("panic: %v", p))
			}
			s.log(r, c, sw.status, time.Since(started))
		}()
		next.ServeHTTP(sw, r)
	})
}

func (s *server) log(r *http.Request, c *call, status int, took time.Duration) {
	level := zap.InfoLevel
	switch r.URL.Path {
	case "/healthz", "/readyz", "/metrics":
		level = zap.DebugLevel // probes would drown the rest
	}
	if c.gone {
		status = 499 // the client left; nothing was answered
	}
	if e := s.Logger.Check(level, "api"); e != nil {
		e.Write(zap.String("method", r.Method), zap.String("path", r.URL.Path), zap.Int("status", status),
			zap.Duration("took", took), zap.String("key_id", c.identity.KeyID), zap.String("remote", r.RemoteAddr), zap.String("request_id", c.requestID))
	}
}

// requestID takes the caller's own id where it is harmless, so that a trace can
// span both sides, and makes one otherwise.
func requestID(r *http.Request) string {
	if id := r.Header.Get("X-Request-Id"); id != "" && len(id) <= 64 && onlyIDChars(id) {
		return id
	}
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	return "req_" + hex.EncodeToString(b[:])
}

func onlyIDChars(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' && c != '.' {
			return false
		}
	}
	return true
}

// statusWriter remembers whether and how the call was answered.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
