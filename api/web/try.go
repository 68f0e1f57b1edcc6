package web

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/gate"
)

// tryPage is the form in which a call is thought through, and what came of it.
type tryPage struct {
	Kind string // request, action
	Form tryForm
	X    *gate.Explanation
	// Source is the rule that decides, as its file has it.
	Source *excerpt
	Would  []stricter
}

// tryForm is the form as it was sent.
type tryForm struct{ Request, Tool, Resource, Args, Agent, User, Goal string }

func (d *Dashboard) tryShow(w http.ResponseWriter, r *http.Request, v *visit) error {
	q := r.URL.Query()
	get := func(name string) string { return strings.TrimSpace(strings.Map(seen, q.Get(name))) }
	b := tryPage{Kind: "request", Form: tryForm{Tool: get("tool"), Agent: get("agent_id")}}
	if b.Form.Tool != "" || get("kind") == "action" {
		b.Kind = "action"
	}
	return d.show(w, r, v, "try", &page{Title: "Try it", Nav: "policies", Body: b})
}

// try thinks the call through that the form describes. Nothing is sent, and
// nothing recorded.
func (d *Dashboard) try(w http.ResponseWriter, r *http.Request, v *visit) error {
	f := r.PostForm
	b := tryPage{Kind: "request", Form: tryForm{
		Request: f.Get("request"), Tool: strings.TrimSpace(f.Get("tool")), Resource: strings.TrimSpace(f.Get("resource")), Args: f.Get("args"),
		Agent: strings.TrimSpace(f.Get("agent_id")), User: strings.TrimSpace(f.Get("user_id")), Goal: strings.TrimSpace(f.Get("goal")),
	}}
	ask := api.NewExplanation{AgentID: b.Form.Agent, UserID: b.Form.User, Goal: b.Form.Goal}
	var err error
	if f.Get("kind") == "action" {
		b.Kind = "action"
		ask.Action = &api.ExplainedAction{Tool: b.Form.Tool, Resource: b.Form.Resource}
		ask.Action.Args, err = jsonObject(b.Form.Args)
	} else {
		ask.Request, err = requestText(b.Form.Request)
	}
	p := &page{Title: "Try it", Nav: "policies"}
	status := http.StatusOK
	if err == nil {
		var x gate.Explanation
		if x, err = v.api.Explain(r.Context(), ask); err == nil {
			b.show(&x, d.Gate.Rules())
		}
	}
	if err != nil {
		if p.Problem, err = problemOf(err); err != nil {
			return err
		}
		status = http.StatusBadRequest
	}
	p.Body = b
	p.fill(d, r, v)
	d.render(w, r, status, "try", p)
	return nil
}

func (b *tryPage) show(x *gate.Explanation, rules *gate.Rules) {
	b.X = x
	for _, mode := range []string{gate.ModeWarn, gate.ModeEnforce, gate.ModeStrict} {
		if does, ok := x.Decision.Would[mode]; ok {
			b.Would = append(b.Would, stricter{mode, does})
		}
	}
	if len(x.Decision.Explain.MatchedRules) != 1 || rules == nil || rules.Policy == nil || rules.Policy.Hash() != x.Decision.PolicyHash {
		return
	}
	for _, p := range x.Policies {
		for _, r := range p.Rules {
			if r.Name == x.Decision.Explain.MatchedRules[0] && r.Result == "matched" {
				file := p.At[:strings.LastIndexByte(p.At, ':')]
				b.Source = excerptOf(rules, file, r.Line)
			}
		}
	}
}

// jsonObject reads the arguments of an action, its numbers as they are written.
func jsonObject(text string) (map[string]any, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	d.UseNumber()
	var out map[string]any
	if err := d.Decode(&out); err != nil || d.More() {
		return nil, &api.Error{Status: http.StatusBadRequest, Code: "invalid_request", Field: "args", Message: `must be one JSON object, as {"amount": 4900, "currency": "usd"}`}
	}
	return out, nil
}

// requestText reads a request as people paste it: a line with method and URL, or
// with method and path above a Host header; headers; an empty line; the body.
func requestText(text string) (*api.ExplainedRequest, error) {
	head, body, _ := strings.Cut(strings.TrimLeft(strings.ReplaceAll(text, "\r\n", "\n"), "\n "), "\n\n")
	lines := strings.Split(strings.TrimRight(head, "\n"), "\n")
	words := strings.Fields(lines[0])
	if len(words) == 3 && strings.HasPrefix(words[2], "HTTP/") {
		words = words[:2]
	}
	if len(words) != 2 {
		return nil, &api.Error{Status: http.StatusBadRequest, Code: "invalid_request", Field: "request", Message: "must begin with a method and a URL, as POST https://api.stripe.com/v1/refunds"}
	}
	out := &api.ExplainedRequest{Method: words[0], URL: words[1], Body: strings.TrimSuffix(body, "\n")}
	for _, line := range lines[1:] {
		name, value, ok := strings.Cut(line, ":")
		if ok && strings.EqualFold(name, "Host") && strings.HasPrefix(out.URL, "/") {
			out.URL = "https://" + strings.TrimSpace(value) + out.URL
		}
		out.Headers = append(out.Headers, line)
	}
	return out, nil
}

// Says words what a rule of an explanation came to.
func (tryPage) Says(r gate.ExplainedRule) string {
	switch r.Result {
	case "matched":
		return "matches: " + words(r.Decision)
	case "error":
		return "cannot be evaluated: " + r.Error
	}
	return r.Result
}
