package proxy

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/actpass/sidecar/gate"
)

// metrics may be used without a registerer; they then go nowhere.
type metrics struct {
	openTunnels    prometheus.Gauge
	upstreamErrors *prometheus.CounterVec
	distrusted     prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		openTunnels: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "actpass_tunnels", Help: "Open tunnels and upgraded connections.",
		}),
		upstreamErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "actpass_upstream_errors_total", Help: "Permitted calls that got no answer, by reason code.",
		}, []string{"reason"}),
		distrusted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "actpass_ca_distrusted_total", Help: "TLS handshakes that a client gave up because it does not trust the CA.",
		}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.openTunnels, m.upstreamErrors, m.distrusted} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

// log writes the one line of an exchange.
func (x *exchange) log() {
	if x.req == nil {
		return // a CONNECT that was taken over has its own line
	}
	ce := x.s.log.Check(zap.InfoLevel, "call")
	if ce == nil {
		return
	}
	d := &x.decision
	room, _ := lineFields.Get().(*[16]zap.Field)
	fields := append(appendHead(room[:0], x.req),
		zap.String("tool", d.Tool), zap.String("decision", d.Decision), zap.String("reason", d.ReasonCode),
		zap.String("enforcement", d.Enforcement), zap.String("mode", d.Mode), zap.Int("status", x.status),
		zap.Duration("duration", time.Since(x.start)), zap.String("event", d.EvidenceEventID))
	if x.note != "" {
		fields = append(fields, zap.String("note", x.note))
	}
	ce.Write(fields...)
	clear(room[:])
	lineFields.Put(room)
}

// lineFields keeps the fields of a line, which take more room than the line.
var lineFields = sync.Pool{New: func() any { return new([16]zap.Field) }}

// logRefusal is the line of a refusal that had no exchange.
func (s *Server) logRefusal(req *gate.Request, r *gate.Refusal, start time.Time) {
	s.log.Info("call", append(logHead(req),
		zap.String("tool", r.Decision.Tool), zap.String("decision", r.Decision.Decision), zap.String("reason", r.Decision.ReasonCode),
		zap.String("enforcement", r.Decision.Enforcement), zap.String("mode", r.Decision.Mode), zap.Int("status", r.Status),
		zap.Duration("duration", time.Since(start)), zap.String("event", r.Decision.EvidenceEventID), zap.String("note", "refused"))...)
}

func logHead(req *gate.Request) []zap.Field { return appendHead(make([]zap.Field, 0, 16), req) }

func appendHead(fields []zap.Field, req *gate.Request) []zap.Field {
	path, _, _ := strings.Cut(req.Head.Target, "?")
	path = withoutUser(path)
	return append(fields,
		zap.String("door", string(req.Door)), zap.String("agent", req.Identity.AgentID),
		zap.String("method", printable(req.Head.Method)), zap.String("authority", printable(withoutUser(req.Head.Authority))), zap.String("path", printable(path)))
}
