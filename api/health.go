package api

import (
	_ "embed"
	"net/http"
	"strconv"
	"sync"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/gate"
)

// OpenAPI is the OpenAPI 3.1 document of this API, in YAML.
//
//go:embed openapi.yaml
var OpenAPI []byte

type health struct {
	Status  string `json:"status"` // ok
	Version string `json:"version"`
}

// healthz says that the process serves.
func (s *server) healthz(w http.ResponseWriter, r *http.Request, _ gate.Identity) error {
	return writeJSON(w, http.StatusOK, health{Status: "ok", Version: s.Version})
}

// readyz says whether the sidecar can do its work. It is open, so it names what
// fails but not how: the log says that, once each time it changes.
func (s *server) readyz(w http.ResponseWriter, r *http.Request, _ gate.Identity) error {
	out, status := Readyz{Status: "ready", Checks: map[string]string{}}, http.StatusOK
	if s.Ready != nil {
		for _, c := range s.Ready() {
			out.Checks[c.Name] = "ok"
			if c.Err != nil {
				out.Status, out.Checks[c.Name], status = "not_ready", "failing", http.StatusServiceUnavailable
			}
			s.ready.note(s.Logger, c)
		}
	}
	return writeJSON(w, status, out)
}

// readyLog logs a check when it begins to fail and when it works again.
type readyLog struct {
	mu      sync.Mutex
	failing map[string]bool
}

func (l *readyLog) note(log *zap.Logger, c Check) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failing == nil {
		l.failing = map[string]bool{}
	}
	switch was := l.failing[c.Name]; {
	case c.Err != nil && !was:
		log.Error("not ready", zap.String("check", c.Name), zap.Error(c.Err))
	case c.Err == nil && was:
		log.Info("ready again", zap.String("check", c.Name))
	}
	l.failing[c.Name] = c.Err != nil
}

func (s *server) metrics(w http.ResponseWriter, r *http.Request, _ gate.Identity) error {
	s.Metrics.ServeHTTP(w, r)
	return nil
}

func (s *server) openapi(w http.ResponseWriter, r *http.Request, _ gate.Identity) error {
	w.Header().Set("Content-Type", "application/yaml")
	w.Header().Set("Content-Length", strconv.Itoa(len(OpenAPI)))
	_, _ = w.Write(OpenAPI)
	return nil
}
