package web

import (
	"net/http"
	"strings"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/gate"
)

type keyPage struct {
	Keys   []api.Key
	Older  string
	New    api.NewKey // as it was typed, when it was refused
	Groups string
	Made   *api.Key // just now: its secret is shown this once
}

func (d *Dashboard) keyList(w http.ResponseWriter, r *http.Request, v *visit) error {
	b, err := d.keys(r, v)
	if err != nil {
		return err
	}
	return d.show(w, r, v, "keys", &page{Title: "Keys", Nav: "keys", Body: b, Notice: notices[r.URL.Query().Get("done")]})
}

func (d *Dashboard) keys(r *http.Request, v *visit) (keyPage, error) {
	var b keyPage
	list, err := v.api.Keys(r.Context(), r.URL.Query().Get("cursor"), 100)
	if err != nil {
		return b, err
	}
	b.Keys = list.Data
	if list.Next != "" {
		b.Older = with(r.URL, "cursor", list.Next)
	}
	return b, nil
}

// keyCreate makes a key and shows it in its answer, once: the page has no address
// of its own, is not to be stored, and asking again makes no second key unless
// the browser is told to send the form again.
func (d *Dashboard) keyCreate(w http.ResponseWriter, r *http.Request, v *visit) error {
	n := api.NewKey{
		Name: strings.TrimSpace(r.PostForm.Get("name")), Role: r.PostForm.Get("role"), AgentID: strings.TrimSpace(r.PostForm.Get("agent_id")),
		Mode: r.PostForm.Get("mode"), TTL: r.PostForm.Get("ttl"),
	}
	groups := r.PostForm.Get("groups")
	for g := range strings.SplitSeq(groups, ",") {
		if g = strings.TrimSpace(g); g != "" {
			n.Groups = append(n.Groups, g)
		}
	}
	made, err := v.api.CreateKey(r.Context(), n)
	p := &page{Title: "Keys", Nav: "keys"}
	status := http.StatusOK
	if err != nil {
		if p.Problem, err = problemOf(err); err != nil {
			return err
		}
		status = http.StatusBadRequest
	}
	b, err := d.keys(r, v)
	if err != nil {
		return err
	}
	if p.Problem != "" {
		b.New, b.Groups = n, groups
	} else {
		b.Made, p.Notice = &made, notices["created"]
	}
	p.Body = b
	p.fill(d, r, v)
	d.render(w, r, status, "keys", p)
	return nil
}

func (d *Dashboard) keyRevoke(w http.ResponseWriter, r *http.Request, v *visit) error {
	id := r.PathValue("id")
	if !strings.HasPrefix(id, "key_") || len(id) > 64 {
		return notFound("key")
	}
	if err := v.api.RevokeKey(r.Context(), id); err != nil {
		return err
	}
	http.Redirect(w, r, "/ui/keys?done=revoked", http.StatusSeeOther)
	return nil
}

// Roles are what a key can have.
func (keyPage) Roles() []string { return []string{gate.RoleGateway, gate.RoleApprover, gate.RoleAdmin} }

// Modes are what a key can be tightened to.
func (keyPage) Modes() []string { return []string{gate.ModeWarn, gate.ModeEnforce, gate.ModeStrict} }
