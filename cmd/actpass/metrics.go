package main

import (
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// maxToolLabels bounds the label `tool`: an agent chooses what it calls, and
// must not choose how much memory that costs. Later names count as "other".
const maxToolLabels = 200

// metrics is gate.Observer over Prometheus.
type metrics struct {
	registry  *prometheus.Registry
	decisions *prometheus.CounterVec
	tools     *prometheus.CounterVec
	faults    *prometheus.CounterVec
	holds     prometheus.Gauge
	overhead  prometheus.Histogram
	memory    *holdMemory

	mu    sync.RWMutex
	known map[string]bool
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "actpass_decisions_total", Help: "Decisions, by decision, effective mode and what was done.",
		}, []string{"decision", "mode", "enforcement"}),
		tools: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "actpass_tool_decisions_total", Help: "Decisions by tool; at most 200 tools, the rest as \"other\".",
		}, []string{"tool", "decision", "mode"}),
		faults: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "actpass_faults_total", Help: "Faults that were survived or failed closed, by kind.",
		}, []string{"kind"}),
		holds: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "actpass_holds", Help: "Calls that wait for a human now.",
		}),
		overhead: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "actpass_overhead_seconds", Help: "Time that the check added to a forwarded call, reading its body and recording included.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .5, 1, 5},
		}),
		memory: newHoldMemory(),
		known:  make(map[string]bool),
	}
	m.registry.MustRegister(m.decisions, m.tools, m.faults, m.holds, m.overhead,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, kind := range []string{"ca", "client_trust", "clock", "evidence", "evidence_share", "identity", "index", "loop", "panic", "passport_file", "passport_keys", "policy", "reload", "request", "store"} {
		m.faults.WithLabelValues(kind)
	}
	return m
}

func (m *metrics) Decided(decision, mode, enforcement, tool string) {
	m.decisions.WithLabelValues(decision, mode, enforcement).Inc()
	m.tools.WithLabelValues(m.label(tool), decision, mode).Inc()
}

func (m *metrics) Overhead(d time.Duration) { m.overhead.Observe(d.Seconds()) }
func (m *metrics) Fault(kind string)        { m.faults.WithLabelValues(kind).Inc() }

// unshipped shows how far the copy of the log in a shared database is behind.
func (m *metrics) unshipped(behind func() uint64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "actpass_evidence_unshipped", Help: "Records of the log that are not in the shared database yet.",
	}, func() float64 { return float64(behind()) }))
}

func (m *metrics) Holds(n int) {
	m.holds.Set(float64(n))
	m.memory.held(n)
}

func (m *metrics) label(tool string) string {
	m.mu.RLock()
	known := m.known[tool]
	m.mu.RUnlock()
	if known {
		return tool
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.known) >= maxToolLabels {
		return "other"
	}
	m.known[tool] = true
	return tool
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// local says that a request comes from this machine itself.
func local(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	ip := net.ParseIP(host)
	return err == nil && ip != nil && ip.IsLoopback()
}
