package web

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/mapping/openapi"
)

type policyPage struct {
	Mode         string
	Overrides    []gate.Override
	PolicyHash   string
	MappingHash  string
	MappingRules int
	Since        time.Time // when these files came into force, as the record tells
	SinceEvent   string
	Policies     []policyView
	Limits       []limitView
	Counted      int // actions that rules were counted over
	CountedSince *evidence.Time

	Unmapped      int // calls without a mapping rule, of those
	Suggested     []suggestion
	MoreSuggested int
	SuggestedYAML string
	Left          []left // what no rule could be drafted for
}

type policyView struct {
	Name    string
	Version int
	File    string
	Line    int
	Tools   []string
	List    []ruleView
}

type ruleView struct {
	Name   string
	Line   int
	Hits   int
	Source *excerpt
}

type limitView struct {
	api.Limit
	Keys string
}

// suggestion is a mapping rule that could be written: an operation that calls were
// seen of, and what it would be called.
type suggestion struct {
	What, Tool, Risk string
	N                int
}

type left struct{ What, Why string }

func (d *Dashboard) policies(w http.ResponseWriter, r *http.Request, v *visit) error {
	rules := d.Gate.Rules()
	if rules == nil || rules.Policy == nil || rules.Mapping == nil {
		return &api.Error{Status: http.StatusServiceUnavailable, Code: "unavailable", Message: "No policies are loaded yet."}
	}
	b := policyPage{Mode: rules.Mode, Overrides: rules.Overrides, PolicyHash: rules.Policy.Hash(), MappingHash: rules.Mapping.Hash(), MappingRules: rules.Mapping.Len()}
	hits, err := d.tally(r, v, &b)
	if err != nil {
		return err
	}
	if err := d.since(r, v, &b); err != nil {
		return err
	}
	infos := rules.Policy.Rules()
	for _, p := range rules.Policy.Policies() {
		view := policyView{Name: p.Name, Version: p.Version, File: p.Pos.File, Line: p.Pos.Line, Tools: p.Tools}
		for _, ri := range infos {
			if ri.Policy == p.Name && ri.Pos.File == p.Pos.File {
				view.List = append(view.List, ruleView{ri.Name, ri.Pos.Line, hits[place{ri.Pos.File, ri.Pos.Line}], excerptOf(rules, ri.Pos.File, ri.Pos.Line)})
			}
		}
		b.Policies = append(b.Policies, view)
	}
	limits, err := v.api.Limits(r.Context(), "", "", "", 100)
	if err != nil {
		return err
	}
	for _, l := range limits.Data {
		lv := limitView{Limit: l}
		if string(l.Key) != "null" {
			lv.Keys = string(l.Key)
		}
		b.Limits = append(b.Limits, lv)
	}
	return d.show(w, r, v, "policies", &page{Title: "Policies", Nav: "policies", Body: b})
}

type place struct {
	file string
	line int
}

// tally tells which rules decided the newest actions, and drafts rules for those
// that had no mapping.
func (d *Dashboard) tally(r *http.Request, v *visit, b *policyPage) (map[place]int, error) {
	found, err := v.api.Decided(r.Context(), 0)
	if err != nil {
		return nil, err
	}
	hits := map[place]int{}
	for _, one := range found.Rules {
		if one.PolicyHash == b.PolicyHash {
			hits[place{one.File, one.Line}] += one.Count
		}
	}
	b.Counted, b.CountedSince = found.Actions, found.Since
	b.suggest(found.Calls())
	return hits, nil
}

// maxSuggested is how many drafted rules the page shows.
const maxSuggested = 12

// suggest drafts mapping rules, as `actpass mapping suggest` does.
func (b *policyPage) suggest(calls map[openapi.Call]int) {
	pack, err := openapi.Observe(calls)
	if err != nil { // what was drafted could not be read again
		return
	}
	for _, o := range pack.Operations {
		b.Unmapped += o.Calls
		b.Suggested = append(b.Suggested, suggestion{o.Method + " " + cmp.Or(o.Host, pack.Host) + o.Path, o.Tool, o.Risk, o.Calls})
	}
	slices.SortStableFunc(b.Suggested, func(x, y suggestion) int { return cmp.Compare(y.N, x.N) })
	for _, l := range pack.Left {
		b.Left = append(b.Left, left{l.What, l.Why})
	}
	b.MoreSuggested = max(0, len(b.Suggested)-maxSuggested)
	b.Suggested, b.Left = b.Suggested[:min(len(b.Suggested), maxSuggested)], b.Left[:min(len(b.Left), 5)]
	if len(pack.Operations) > 0 {
		b.SuggestedYAML = string(pack.YAML())
	}
}

// suggestedActions is how many of the newest actions a file of suggestions is made
// of, at most.
const suggestedActions = 20_000

// suggested hands out a mapping file for traffic of the last week that no rule maps.
func (d *Dashboard) suggested(w http.ResponseWriter, r *http.Request, v *visit) error {
	t, err := v.api.Traffic(r.Context(), d.Now().Add(-api.SimulationSpan), "", suggestedActions, nil)
	if err != nil {
		return err
	}
	pack, err := openapi.Observe(t.Unmapped)
	if err != nil {
		return err
	}
	if len(pack.Operations) == 0 {
		return &api.Error{Status: http.StatusNotFound, Code: "not_found", Message: "There is nothing to suggest: every call of the last week has a mapping rule, or none that one could be drafted for."}
	}
	attach(w, "application/yaml", "suggested.yaml", pack.YAML())
	return nil
}

// attach answers with a file to keep.
func attach(w http.ResponseWriter, kind, name string, data []byte) {
	w.Header().Set("Content-Type", kind+"; charset=utf-8")
	w.Header().Set("Content-Disposition", `attachment; filename="`+name+`"`)
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	_, _ = w.Write(data)
}

// since says when what is loaded came into force, as far as the record tells: the
// oldest of the newest starts and reloads that name both hashes.
func (d *Dashboard) since(r *http.Request, v *visit, b *policyPage) error {
	var notes []event
	for _, kind := range []string{evidence.KindConfig, evidence.KindSystem} {
		p, err := v.api.Events(r.Context(), api.EventQuery{Kind: kind, Limit: 100})
		if err != nil {
			return err
		}
		for _, raw := range p.Data {
			if e, err := decode(raw); err == nil && e.Data["policy_hash"] != "" {
				notes = append(notes, e)
			}
		}
	}
	slices.SortFunc(notes, func(x, y event) int { return y.Time.Compare(x.Time.Time) })
	for _, e := range notes {
		if e.Data["policy_hash"] != b.PolicyHash || e.Data["mapping_hash"] != b.MappingHash {
			break
		}
		b.Since, b.SinceEvent = e.Time.Time, e.ID
	}
	return nil
}
