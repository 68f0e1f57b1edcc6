package web

import (
	"bufio"
	"bytes"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/evidence"
)

// healthView is what the overview says of the sidecar itself, and of whether
// workloads are forced through it.
type healthView struct {
	Ready   bool
	Checks  []named // ok, or failing
	Faults  []tally // since the start, those that happened
	Known   bool    // faults could be asked for
	Doctors []doctorView
}

type named struct{ Name, Value string }

// doctorView is the newest report of one workload. All of it is its own word.
type doctorView struct {
	Event, Agent, Key, Verdict string
	Time                       time.Time
	Paths                      []doctorPath
	Old                        bool // long ago: things may have changed
}

type doctorPath struct{ Name, Verdict, Detail string }

const (
	doctorReports = 50 // of the newest that are looked at
	maxDoctors    = 4  // workloads that are shown
	doctorOld     = 7 * 24 * time.Hour
)

func (d *Dashboard) health(r *http.Request, v *visit) (h healthView, err error) {
	ready, err := v.api.Ready(r.Context())
	if err != nil {
		return h, err
	}
	h.Ready = ready.Status == "ready"
	for _, name := range sortedKeys(ready.Checks) {
		h.Checks = append(h.Checks, named{name, ready.Checks[name]})
	}
	if text, err := v.api.Metrics(r.Context()); err == nil {
		h.Known, h.Faults = true, faultsOf(text)
	}
	list, err := v.api.Events(r.Context(), api.EventQuery{Kind: evidence.KindDoctor, Limit: doctorReports})
	if err != nil {
		return h, err
	}
	seen := map[[2]string]bool{}
	for _, raw := range list.Data {
		e, err := decode(raw)
		if err != nil {
			return h, err
		}
		if who := [2]string{e.KeyID, e.AgentID}; !seen[who] && len(h.Doctors) < maxDoctors {
			seen[who] = true
			h.Doctors = append(h.Doctors, doctorOf(&e, d.Now()))
		}
	}
	return h, nil
}

func doctorOf(e *event, now time.Time) doctorView {
	out := doctorView{Event: e.ID, Agent: e.AgentID, Key: e.KeyID, Verdict: e.Data["verdict"], Time: e.Time.Time, Old: now.Sub(e.Time.Time) > doctorOld}
	for _, name := range sortedKeys(e.Data) {
		path, ok := strings.CutPrefix(name, "path.")
		if !ok {
			continue
		}
		verdict, detail, _ := strings.Cut(e.Data[name], ": ")
		if detail = strings.TrimPrefix(detail, ": "); !slices.Contains(doctorOrder, verdict) {
			verdict, detail = "unknown", e.Data[name]
		}
		out.Paths = append(out.Paths, doctorPath{path, verdict, strings.TrimSuffix(detail, ": ")})
	}
	if !slices.Contains(doctorOrder, out.Verdict) {
		out.Verdict = "unknown"
	}
	slices.SortStableFunc(out.Paths, func(x, y doctorPath) int {
		return slices.Index(doctorOrder, x.Verdict) - slices.Index(doctorOrder, y.Verdict)
	})
	return out
}

// doctorOrder is what the doctor says of a path, the worst first.
var doctorOrder = []string{"open", "advisory", "enforced"}

// faultsOf reads the counted faults out of the metrics.
func faultsOf(text []byte) (out []tally) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), `actpass_faults_total{kind="`)
		if !ok {
			continue
		}
		kind, number, ok := strings.Cut(rest, `"} `)
		if n, err := strconv.ParseFloat(number, 64); ok && err == nil && n > 0 {
			out = append(out, tally{Name: kind, N: int64(n)})
		}
	}
	return out
}
