package web

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// grantRow is a grant as the approvals page lists it.
type grantRow struct {
	api.Grant
	Bounds []string // on the arguments, in words
}

// grantRows gives the live grants, or all; more says that there are others.
func (v *visit) grantRows(r *http.Request, all bool) (out []grantRow, more bool, err error) {
	p, err := v.api.Grants(r.Context(), !all, "", 50)
	if err != nil {
		return nil, false, err
	}
	for _, g := range p.Data {
		out = append(out, grantRow{g, boundsOf(&g)})
	}
	return out, p.Next != "", nil
}

// boundsOf words what a grant says of arguments.
func boundsOf(g *api.Grant) (out []string) {
	out = bounds(g.ResourceConstraints)
	for _, arg := range g.FreeArgs {
		out = append(out, arg+" anything")
	}
	return out
}

// grantPage asks for the shape of calls like one that was asked about.
type grantPage struct {
	api.Approval
	Args  []grantArg
	More  bool // arguments than the form can hold
	Form  grantForm
	Spans []span
}

// grantArg is one argument, and how the grant is to bound it.
type grantArg struct {
	Name   string
	Number bool
	Open   bool   // nothing can bound it
	Bound  string // max, equals, free
	Value  string
}

type grantForm struct{ Resource, Count, For, SumArg, SumMax, Reason, Also string }

var grantSpans = []span{{"1h", "an hour"}, {"8h", "8 hours"}, {"24h", "a day"}, {"168h", "a week"}, {"720h", "30 days"}}

const (
	boundMax    = "max"
	boundEquals = "equals"
	boundFree   = "free"
)

// grantNew asks. The bounds that it proposes are the narrowest: numbers at most
// what they were, everything else exactly that.
func (d *Dashboard) grantNew(w http.ResponseWriter, r *http.Request, v *visit) error {
	b, err := d.findGrant(r, v)
	if err != nil {
		return err
	}
	return d.show(w, r, v, "grant", &page{Title: "Grant", Nav: "approvals", Body: b})
}

func (d *Dashboard) findGrant(r *http.Request, v *visit) (*grantPage, error) {
	a, err := d.findApproval(r, v)
	if err != nil {
		return nil, err
	}
	b := &grantPage{Approval: a.Approval, Form: grantForm{Resource: a.Resource, Count: "5", For: "8h"}, Spans: grantSpans}
	b.add(a.Args, "")
	return b, nil
}

// add lists arguments, as the gate makes bounds of them: what is hidden or cut on
// record, and lists, can be no bound.
func (b *grantPage) add(args map[string]any, at string) {
	for _, k := range sortedKeys(args) {
		if len(b.Args) >= maxFields {
			b.More = true
			return
		}
		one := grantArg{Name: at + k, Bound: boundEquals, Value: value(args[k])}
		switch v := args[k].(type) {
		case map[string]any:
			if v[evidence.RedactedKey] != nil || v[evidence.TruncatedKey] != nil || v[evidence.OmittedKey] != nil || strings.Contains(k, ".") {
				one.Open, one.Bound = true, boundFree
			} else if len(v) > 0 {
				b.add(v, one.Name+".")
				continue
			}
		case []any:
			one.Open, one.Bound = true, boundFree
		case json.Number, float64, int64:
			one.Number, one.Bound = true, boundMax
		}
		if k == evidence.OmittedKey || strings.Contains(k, ".") {
			one.Open, one.Bound = true, boundFree
		}
		b.Args = append(b.Args, one)
	}
}

// grantMake makes a grant of the form, and with it, where that is asked, gives the
// visitor's word on the call itself.
func (d *Dashboard) grantMake(w http.ResponseWriter, r *http.Request, v *visit) error {
	b, err := d.findGrant(r, v)
	if err != nil {
		return err
	}
	n, err := b.read(r.PostForm)
	if err == nil {
		if b.Form.Also != "" {
			_, err = v.api.Decide(r.Context(), b.ID, api.Verdict{Decision: gate.Approve, Reason: n.Reason, Grant: n})
		} else {
			_, err = v.api.CreateGrant(r.Context(), *n)
		}
	}
	if err == nil {
		http.Redirect(w, r, "/ui/approvals?done=granted#grants", http.StatusSeeOther)
		return nil
	}
	e, ok := err.(*api.Error)
	if !ok || e.Status != http.StatusConflict && e.Status != http.StatusBadRequest && e.Status != http.StatusForbidden {
		return err
	}
	p := &page{Title: "Grant", Nav: "approvals", Body: b, Problem: sentence(e)}
	p.fill(d, r, v)
	d.render(w, r, e.Status, "grant", p)
	return nil
}

// read takes the form over into the page, and makes the wish of it.
func (b *grantPage) read(f url.Values) (*api.NewGrant, error) {
	text := func(name string) string { return strings.TrimSpace(f.Get(name)) }
	b.Form = grantForm{text("resource"), text("count"), text("for"), text("sum_arg"), text("sum_max"), text("reason"), text("also")}
	n := &api.NewGrant{ApprovalID: b.ID, Resource: b.Form.Resource, Reason: b.Form.Reason}
	bad := func(field, message string) error {
		return &api.Error{Status: http.StatusBadRequest, Code: "invalid_request", Field: field, Message: message}
	}
	most, exactly := map[string]any{}, map[string]any{}
	for i := range b.Args {
		a := &b.Args[i]
		was := *a
		at := strconv.Itoa(i)
		if bound := f.Get("bound." + at); !a.Open && slices.Contains([]string{boundMax, boundEquals, boundFree}, bound) {
			a.Bound = bound
		}
		if f.Has("value." + at) {
			a.Value = f.Get("value." + at)
		}
		switch {
		case a.Bound == boundFree:
			n.FreeArgs = append(n.FreeArgs, a.Name)
		case a.Bound == was.Bound && a.Value == was.Value:
			// The API takes it from the approval, exactly.
		case a.Number || a.Bound == boundMax:
			v := json.Number(strings.TrimSpace(a.Value))
			if _, err := json.Marshal(v); err != nil || v == "" {
				return nil, bad(a.Name, "must be a number")
			}
			if a.Bound == boundMax {
				most[a.Name] = v
			} else {
				exactly[a.Name] = v
			}
		default:
			exactly[a.Name] = a.Value
		}
	}
	n.ResourceConstraints = api.Constraints{}
	for name, m := range map[string]map[string]any{"max": most, "equals": exactly} {
		if len(m) > 0 {
			n.ResourceConstraints[name] = m
		}
	}
	var err error
	if n.Count, err = strconv.ParseInt(b.Form.Count, 10, 64); err != nil {
		return nil, bad("count", "must be a whole number of calls")
	}
	span, err := time.ParseDuration(b.Form.For)
	if err != nil {
		return nil, bad("ttl", "must be a duration, as 8h")
	}
	n.TTL = int64(span / time.Second)
	if b.Form.SumMax != "" {
		n.Sum = &api.GrantSum{Arg: b.Form.SumArg}
		if n.Sum.Max, err = strconv.ParseInt(b.Form.SumMax, 10, 64); err != nil {
			return nil, bad("sum.max", "must be a whole number")
		}
	}
	return n, nil
}

// Numbers are the arguments that can be added up.
func (b *grantPage) Numbers() (out []string) {
	for _, a := range b.Args {
		if a.Number {
			out = append(out, a.Name)
		}
	}
	return out
}

func (d *Dashboard) grantRevoke(w http.ResponseWriter, r *http.Request, v *visit) error {
	id := r.PathValue("id")
	if !strings.HasPrefix(id, "grt_") || len(id) > 64 {
		return notFound("grant")
	}
	if r.PostForm.Get("confirm") != "yes" {
		return &api.Error{Status: http.StatusBadRequest, Code: "invalid_request", Message: "Nothing was revoked: it was not confirmed."}
	}
	if _, err := v.api.RevokeGrant(r.Context(), id, strings.TrimSpace(r.PostForm.Get("reason"))); err != nil {
		return err
	}
	http.Redirect(w, r, "/ui/approvals?done=grant_revoked#grants", http.StatusSeeOther)
	return nil
}
