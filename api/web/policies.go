package web

import (
	"cmp"
	"net/http"
	"slices"
	"strings"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/gate"
)

// ruleEvents is how many of the newest actions rules are counted over.
const ruleEvents = 1000

type policyPage struct {
	Mode         string
	Overrides    []gate.Override
	PolicyHash   string
	MappingHash  string
	MappingRules int
	Since        string // when these files came into force, as the record tells
	Policies     []policyView
	Limits       []limitView
	Counted      int // actions that rules were counted over
	Unmapped     []shape
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
	Name string
	Line int
	Hits int
}

type limitView struct {
	api.Limit
	Keys string
}

// shape is traffic that no mapping rule names: ids in its path stand as *.
type shape struct {
	Text string
	N    int
}

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
	infos := rules.Policy.Rules()
	for _, p := range rules.Policy.Policies() {
		view := policyView{Name: p.Name, Version: p.Version, File: p.Pos.File, Line: p.Pos.Line, Tools: p.Tools}
		for _, ri := range infos {
			if ri.Policy == p.Name && ri.Pos.File == p.Pos.File {
				view.List = append(view.List, ruleView{ri.Name, ri.Pos.Line, hits[place{ri.Pos.File, ri.Pos.Line}]})
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

// tally counts which rules decided the newest actions, and what had no mapping.
func (d *Dashboard) tally(r *http.Request, v *visit, b *policyPage) (map[place]int, error) {
	hits := map[place]int{}
	shapes := map[string]int{}
	for cursor := ""; b.Counted < ruleEvents; {
		p, err := v.api.Events(r.Context(), api.EventQuery{Kind: "action", Cursor: cursor, Limit: 200})
		if err != nil {
			return nil, err
		}
		for _, raw := range p.Data {
			e, err := decode(raw)
			if err != nil {
				continue
			}
			b.Counted++
			if e.Rule != nil && e.PolicyHash == b.PolicyHash {
				hits[place{e.Rule.File, e.Rule.Line}]++
			}
			if q := e.Request; q != nil && e.MappingRule == nil && e.Door != "api" && len(shapes) < 200 {
				shapes[q.Method+" "+q.Authority+pathShape(q.Path)]++
			}
		}
		if cursor = p.Next; cursor == "" {
			break
		}
	}
	for text, n := range shapes {
		b.Unmapped = append(b.Unmapped, shape{text, n})
	}
	sortShapes(b.Unmapped)
	b.Unmapped = b.Unmapped[:min(len(b.Unmapped), 12)]
	return hits, nil
}

// pathShape puts * where a segment looks like an id.
func pathShape(path string) string {
	parts := strings.Split(path, "/")
	for i, s := range parts {
		if strings.ContainsAny(s, "0123456789") && (len(s) > 3 || strings.Trim(s, "0123456789") == "") && (s == "" || s[0] != 'v' || len(s) > 3) {
			parts[i] = "*"
		}
	}
	return strings.Join(parts, "/")
}

func sortShapes(list []shape) {
	slices.SortFunc(list, func(x, y shape) int { return cmp.Or(cmp.Compare(y.N, x.N), strings.Compare(x.Text, y.Text)) })
}
