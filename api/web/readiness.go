package web

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/whatif"
)

// readinessPage is what could be enforced, and what was tightened already.
type readinessPage struct {
	Filter    map[string]string
	Spans     []span
	Report    *whatif.Readiness // nil when it could not be asked for
	Reading   *api.Error        // says how far the record is read, while it is
	Overrides []api.ModeOverride
	More      bool // overrides than are shown
	Set       modeForm
}

var readinessSpans = []span{{"24h", "24 hours"}, {"72h", "3 days"}, {"168h", "7 days"}, {"720h", "30 days"}}

// modeForm is a wish for an override as it stands in the form.
type modeForm struct{ Tool, Agent, Mode, Reason string }

// readingWait is how long a page waits for a record that is read for the first time,
// before it says how far that is. It is read on meanwhile.
const readingWait = 600 * time.Millisecond

// reading is err where it says that the record is being read, else nil.
func reading(err error) *api.Error {
	if e := (*api.Error)(nil); errors.As(err, &e) && e.Code == api.ReadingCode {
		return e
	}
	return nil
}

// modeFormOf drops what cannot be seen: the page is to show what will be set.
func modeFormOf(q url.Values) modeForm {
	get := func(name string) string { return strings.TrimSpace(strings.Map(seen, q.Get(name))) }
	return modeForm{Tool: get("tool"), Agent: get("agent_id"), Mode: get("mode"), Reason: strings.TrimSpace(q.Get("reason"))}
}

// Fits says that a row of readiness can be switched by its names.
func (readinessPage) Fits(r whatif.ReadinessRow) bool {
	f := modeFormOf(url.Values{"tool": {r.Tool}, "agent_id": {r.AgentID}})
	return r.Verdict != whatif.InForce && f.Tool == r.Tool && f.Agent == r.AgentID && r.AgentID != "" &&
		!strings.ContainsAny(r.Tool, "*?[]{}(") && !strings.Contains(r.AgentID, "*")
}

// Switch is the address of the page that asks whether a row is to be enforced.
func (b readinessPage) Switch(r whatif.ReadinessRow) string {
	return "/ui/modes/new?" + url.Values{"tool": {r.Tool}, "agent_id": {r.AgentID}, "mode": {b.Filter["mode"]}}.Encode()
}

// Review is the address of the review of what a row would have stopped.
func (b readinessPage) Review(r whatif.ReadinessRow) string {
	return "/ui/review?" + url.Values{"tool": {r.Tool}, "agent_id": {r.AgentID}, "mode": {b.Filter["mode"]}, "last": {b.Filter["last"]}}.Encode()
}

func (d *Dashboard) readiness(w http.ResponseWriter, r *http.Request, v *visit) error {
	q := r.URL.Query()
	b := readinessPage{Filter: map[string]string{}, Spans: readinessSpans}
	for _, name := range []string{"tool", "agent_id", "mode", "last"} {
		b.Filter[name] = strings.Map(seen, q.Get(name))
	}
	if b.Filter["mode"] != gate.ModeStrict {
		b.Filter["mode"] = gate.ModeEnforce
	}
	last, err := time.ParseDuration(b.Filter["last"])
	if err != nil || last <= 0 {
		b.Filter["last"], last = "168h", api.SimulationSpan
	}
	modes, err := v.api.Modes(r.Context(), "", api.MaxLimit)
	if err != nil {
		return err
	}
	b.Overrides, b.More = modes.Data, modes.Next != ""
	p := &page{Title: "Readiness", Nav: "readiness", Notice: notices[q.Get("done")]}
	report, err := v.api.Readiness(r.Context(), api.ReadinessQuery{
		Mode: b.Filter["mode"], Tool: b.Filter["tool"], Agent: b.Filter["agent_id"], Since: d.Now().Add(-last), Limit: api.MaxLimit, Wait: readingWait,
	})
	if b.Reading = reading(err); b.Reading != nil {
		p.Again = true
	} else if err == nil {
		b.Report = &report
	} else if p.Problem, err = problemOf(err); err != nil {
		return err
	}
	p.Body = b
	return d.show(w, r, v, "readiness", p)
}

// modePage asks whether an override is meant. It sets nothing.
type modePage struct {
	modeForm
	Rows    []whatif.ReadinessRow // of what it would cover
	Missing []string
	Asked   bool       // the record was asked
	Reading *api.Error // says how far the record is read, while it is
}

func (d *Dashboard) modeNew(w http.ResponseWriter, r *http.Request, v *visit) error {
	return d.askMode(w, r, v, http.StatusOK, modeFormOf(r.URL.Query()), "")
}

func (d *Dashboard) askMode(w http.ResponseWriter, r *http.Request, v *visit, status int, f modeForm, problem string) error {
	b := modePage{modeForm: f}
	if f.Mode == gate.ModeEnforce || f.Mode == gate.ModeStrict {
		// Only advice: a record that cannot be read bars nobody from tightening.
		ask := api.ReadinessQuery{Mode: f.Mode, Tool: f.Tool, Since: d.Now().Add(-api.SimulationSpan), Limit: api.MaxLimit, Wait: readingWait}
		if !strings.Contains(f.Agent, "*") {
			ask.Agent = f.Agent
		}
		report, err := v.api.Readiness(r.Context(), ask)
		if b.Reading = reading(err); err == nil {
			b.Asked, b.Missing = true, report.Missing
			for _, row := range report.Data {
				if f.Agent == "" || gate.MatchGlob(f.Agent, row.AgentID) {
					b.Rows = append(b.Rows, row)
				}
			}
		}
	}
	p := &page{Title: "Tighten", Nav: "readiness", Again: b.Reading != nil && r.Method == http.MethodGet, AgainByScript: true, Body: b, Problem: problem}
	p.fill(d, r, v)
	d.render(w, r, status, "mode", p)
	return nil
}

// modeSet sets an override that was confirmed.
func (d *Dashboard) modeSet(w http.ResponseWriter, r *http.Request, v *visit) error {
	f := modeFormOf(r.PostForm)
	if r.PostForm.Get("confirm") != "yes" {
		return d.askMode(w, r, v, http.StatusBadRequest, f, "Nothing was set: say below that it is meant.")
	}
	_, err := v.api.SetMode(r.Context(), api.NewMode{Tool: f.Tool, AgentID: f.Agent, Mode: f.Mode, Reason: f.Reason})
	if err == nil {
		http.Redirect(w, r, "/ui/readiness?done=tightened", http.StatusSeeOther)
		return nil
	}
	problem, err := problemOf(err)
	if err != nil {
		return err
	}
	return d.askMode(w, r, v, http.StatusBadRequest, f, problem)
}

func (d *Dashboard) modeClear(w http.ResponseWriter, r *http.Request, v *visit) error {
	id := r.PathValue("id")
	if !strings.HasPrefix(id, "mod_") || len(id) > 64 {
		return notFound("mode override")
	}
	if r.PostForm.Get("confirm") != "yes" {
		return &api.Error{Status: http.StatusBadRequest, Code: "invalid_request", Message: "Nothing was cleared: it was not confirmed."}
	}
	if err := v.api.ClearMode(r.Context(), id, strings.TrimSpace(r.PostForm.Get("reason"))); err != nil {
		return err
	}
	http.Redirect(w, r, "/ui/readiness?done=cleared", http.StatusSeeOther)
	return nil
}
