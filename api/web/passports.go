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
	"github.com/actpass/sidecar/gate"
)

// passportPage is what was issued, and what became of it.
type passportPage struct {
	List     []passportRow
	Older    string
	Filter   map[string]string
	Filtered bool
	MayIssue bool
	Form     passportForm        // as it was typed, when it was refused
	Made     *api.IssuedPassport // just now: its token is shown this once
	Spans    []span
}

type passportRow struct {
	api.Passport
	Bounds []string // on the arguments, in words
}

// passportForm is the form, as it was typed.
type passportForm struct{ Agent, User, Goal, Tools, Resources, Most, Currency, More, Risk, For string }

var passportSpans = []span{{"1m", "a minute"}, {"5m", "5 minutes"}, {"15m", "15 minutes"}, {"1h", "an hour"}}

func (d *Dashboard) passportList(w http.ResponseWriter, r *http.Request, v *visit) error {
	b, err := d.passports(r, v)
	if err != nil {
		return err
	}
	return d.show(w, r, v, "passports", &page{Title: "Passports", Nav: "passports", Live: r.URL.Query().Get("cursor") == "", Body: b, Notice: notices[r.URL.Query().Get("done")]})
}

func (d *Dashboard) passports(r *http.Request, v *visit) (*passportPage, error) {
	b := &passportPage{
		Filter: map[string]string{}, Spans: passportSpans, Form: passportForm{For: "5m"},
		MayIssue: v.who.Role == gate.RoleAdmin || v.who.Ceiling != nil,
	}
	for _, name := range []string{"state", "agent_id"} {
		b.Filter[name] = strings.TrimSpace(r.URL.Query().Get(name))
		b.Filtered = b.Filtered || b.Filter[name] != ""
	}
	p, err := v.api.Passports(r.Context(), api.PassportQuery{State: b.Filter["state"], AgentID: b.Filter["agent_id"], Cursor: r.URL.Query().Get("cursor"), Limit: 50})
	if err != nil {
		return nil, err
	}
	for _, one := range p.Data {
		b.List = append(b.List, passportRow{one, bounds(one.ResourceConstraints)})
	}
	if p.Next != "" {
		b.Older = with(r.URL, "cursor", p.Next)
	}
	return b, nil
}

// States are what a passport can be in.
func (*passportPage) States() []string {
	return []string{gate.PassportLive, gate.PassportUsed, gate.PassportExpired, gate.PassportRevoked}
}

// Risks are the tiers, from below.
func (*passportPage) Risks() []string { return []string{"low", "medium", "high", "critical"} }

// passportIssue makes a passport and shows its token in this answer and nowhere else.
func (d *Dashboard) passportIssue(w http.ResponseWriter, r *http.Request, v *visit) error {
	form, n, err := readPassport(r.PostForm)
	var made api.IssuedPassport
	if err == nil {
		made, err = v.api.IssuePassport(r.Context(), n)
	}
	return d.afterPassport(w, r, v, err, func(b *passportPage, p *page, refused bool) {
		if refused {
			b.Form = form
		} else {
			b.Made, p.Notice = &made, notices["issued"]
		}
	})
}

// afterPassport shows the list below what a form came to. An error that is about the
// form goes into the page.
func (d *Dashboard) afterPassport(w http.ResponseWriter, r *http.Request, v *visit, failed error, change func(b *passportPage, p *page, refused bool)) error {
	p := &page{Title: "Passports", Nav: "passports"}
	status := http.StatusOK
	if failed != nil {
		var err error
		if p.Problem, err = problemOf(failed); err != nil {
			return err
		}
		status = failed.(*api.Error).Status
	}
	b, err := d.passports(r, v)
	if err != nil {
		return err
	}
	change(b, p, failed != nil)
	p.Body = b
	p.fill(d, r, v)
	d.render(w, r, status, "passports", p)
	return nil
}

// readPassport makes a wish of the form. Lists are one a line, or apart by commas or
// spaces: none of the names has one.
func readPassport(f url.Values) (passportForm, api.NewPassport, error) {
	text := func(name string) string { return strings.TrimSpace(f.Get(name)) }
	form := passportForm{text("agent_id"), text("user_id"), text("goal"), text("tools"), text("resources"), text("max_amount"), text("currency"), text("more"), text("risk"), text("for")}
	n := api.NewPassport{
		AgentID: form.Agent, UserID: form.User, Goal: form.Goal, RiskTier: form.Risk,
		AllowedTools: split(form.Tools), AllowedResources: split(form.Resources), ResourceConstraints: api.Constraints{},
	}
	bad := func(field, message string) (passportForm, api.NewPassport, error) {
		return form, n, &api.Error{Status: http.StatusBadRequest, Code: "invalid_request", Field: field, Message: message}
	}
	if form.More != "" {
		if err := json.Unmarshal([]byte(form.More), &n.ResourceConstraints); err != nil || n.ResourceConstraints == nil {
			return bad("resource_constraints", `must be a JSON object, such as {"prefix":{"charge":"ch_"}}`)
		}
	}
	if form.Most != "" {
		most, err := strconv.ParseInt(form.Most, 10, 64)
		if err != nil {
			return bad("max_amount", "must be a whole number, in the currency's smallest unit")
		}
		n.ResourceConstraints["max_amount"] = most
	}
	if form.Currency != "" {
		n.ResourceConstraints["currency"] = form.Currency
	}
	ttl, err := time.ParseDuration(form.For)
	if err != nil || ttl < time.Second {
		return bad("ttl", "must be a duration, as 5m")
	}
	n.TTL = int64(ttl / time.Second)
	return form, n, nil
}

func split(s string) []string {
	return slices.DeleteFunc(strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\r' || r == '\t' }), func(s string) bool { return s == "" })
}

// passportRevoke ends a passport, in the list or not: another sidecar's, or one whose
// id was read in the record.
func (d *Dashboard) passportRevoke(w http.ResponseWriter, r *http.Request, v *visit) error {
	var err error = &api.Error{Status: http.StatusBadRequest, Code: "invalid_request", Message: "Nothing was revoked: it was not confirmed."}
	if r.PostForm.Get("confirm") == "yes" {
		_, err = v.api.RevokePassport(r.Context(), strings.TrimSpace(r.PostForm.Get("jti")), strings.TrimSpace(r.PostForm.Get("reason")))
	}
	if err == nil {
		http.Redirect(w, r, "/ui/passports?done=revoked", http.StatusSeeOther)
		return nil
	}
	return d.afterPassport(w, r, v, err, func(*passportPage, *page, bool) {})
}

// bounds words what constraints say of arguments.
func bounds(c api.Constraints) (out []string) {
	add := func(arg, word string, v any) { out = append(out, arg+" "+word+value(v)) }
	for _, one := range []struct{ name, arg, word string }{{"min_amount", "amount", "at least "}, {"max_amount", "amount", "at most "}, {"currency", "currency", ""}} {
		if v, ok := c[one.name]; ok {
			add(one.arg, one.word, v)
		}
	}
	for _, one := range []struct{ name, word string }{{"min", "at least "}, {"max", "at most "}, {"equals", ""}, {"prefix", "beginning with "}, {"one_of", "one of "}} {
		m, ok := c[one.name].(map[string]any)
		if !ok && c[one.name] != nil {
			add(one.name, "", c[one.name])
		}
		for _, arg := range sortedKeys(m) {
			v := m[arg]
			if list, ok := v.([]any); ok {
				words := make([]string, len(list))
				for i := range list {
					words[i] = value(list[i])
				}
				v = strings.Join(words, ", ")
			}
			add(arg, one.word, v)
		}
	}
	known := []string{"min_amount", "max_amount", "currency", "min", "max", "equals", "prefix", "one_of"}
	for _, name := range sortedKeys(c) {
		if !slices.Contains(known, name) {
			add(name, "", c[name])
		}
	}
	return out
}
