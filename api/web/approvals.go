package web

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/gate"
)

type approvalPage struct {
	Waiting []api.Approval
	Unclear []api.Approval // of Decided, those whose call may have taken effect or not
	Decided []api.Approval
	Older   string

	MoreUnclear bool

	Grants     []grantRow
	MoreGrants bool
	AllGrants  bool // and not only those in force
}

// As many, and as old, are the used approvals that the page asks people to look into;
// older ones are for the list by outcome.
const (
	unclearFor = 30 * 24 * time.Hour
	maxUnclear = 20
)

func (d *Dashboard) approvalList(w http.ResponseWriter, r *http.Request, v *visit) error {
	var b approvalPage
	waiting, err := v.api.Approvals(r.Context(), gate.ApprovalPending, "", "", 100)
	if err != nil {
		return err
	}
	all, err := v.api.Approvals(r.Context(), "", "", r.URL.Query().Get("cursor"), 50)
	if err != nil {
		return err
	}
	b.Waiting = waiting.Data
	for _, a := range all.Data {
		if a.State != gate.ApprovalPending {
			b.Decided = append(b.Decided, a)
		}
	}
	if b.Unclear, b.MoreUnclear, err = v.api.UnclearApprovals(r.Context(), unclearFor, maxUnclear); err != nil {
		return err
	}
	if all.Next != "" {
		b.Older = with(r.URL, "cursor", all.Next)
	}
	if v.who.Role != gate.RoleGateway {
		b.AllGrants = r.URL.Query().Get("grants") == "all"
		if b.Grants, b.MoreGrants, err = v.grantRows(r, b.AllGrants); err != nil {
			return err
		}
	}
	return d.show(w, r, v, "approvals", &page{Title: "Approvals", Nav: "approvals", Live: true, Body: b, Notice: notices[r.URL.Query().Get("done")]})
}

type approvalView struct {
	api.Approval
	Fields []field
	More   bool
	Groups string // typed so far, for escalate
	Reason string
}

// notices are what a page says after a form; the address carries only the word.
var notices = map[string]string{
	"approve":       "Your approval is on record.",
	"deny":          "Denied. The call will not be sent.",
	"escalate":      "Escalated to the groups that you named.",
	"cancel":        "Cancelled. The call will not be sent.",
	"tightened":     "Tightened, from the next call on.",
	"cleared":       "Cleared. The configured mode applies again.",
	"granted":       "Granted. Calls within its bounds go without a question.",
	"grant_revoked": "The grant is revoked. Such calls are asked about again.",
	"created":       "The key was made.",
	"issued":        "The passport was made.",
	"revoked":       "Revoked. It is refused from now on.",
}

func (d *Dashboard) findApproval(r *http.Request, v *visit) (*approvalView, error) {
	id := r.PathValue("id")
	if !strings.HasPrefix(id, "apr_") || len(id) > 64 {
		return nil, notFound("approval")
	}
	a, err := v.api.Approval(r.Context(), id, 0)
	if err != nil {
		return nil, err
	}
	b := &approvalView{Approval: a}
	b.Fields, b.More = fields(a.Args)
	return b, nil
}

func (d *Dashboard) approvalDetail(w http.ResponseWriter, r *http.Request, v *visit) error {
	b, err := d.findApproval(r, v)
	if err != nil {
		return err
	}
	return d.show(w, r, v, "approval", &page{Title: "Approval", Nav: "approvals", Live: true, Body: b, Notice: notices[r.URL.Query().Get("done")]})
}

// approvalDecide gives the visitor's word, and shows the approval again when it
// could not be taken: somebody else was quicker, or the group does not fit.
func (d *Dashboard) approvalDecide(w http.ResponseWriter, r *http.Request, v *visit) error {
	id := r.PathValue("id")
	if !strings.HasPrefix(id, "apr_") || len(id) > 64 {
		return notFound("approval")
	}
	word := api.Verdict{Decision: r.PostForm.Get("decision"), Reason: strings.TrimSpace(r.PostForm.Get("reason"))}
	groups := r.PostForm.Get("to")
	if word.Decision == gate.Escalate {
		for _, g := range strings.Split(groups, ",") {
			if g = strings.TrimSpace(g); g != "" {
				word.To = append(word.To, g)
			}
		}
	}
	_, err := v.api.Decide(r.Context(), id, word)
	if err == nil {
		http.Redirect(w, r, "/ui/approvals/"+url.PathEscape(id)+"?done="+url.QueryEscape(word.Decision), http.StatusSeeOther)
		return nil
	}
	e, ok := err.(*api.Error)
	if !ok || e.Status != http.StatusConflict && e.Status != http.StatusBadRequest && e.Status != http.StatusForbidden {
		return err
	}
	b, err := d.findApproval(r, v)
	if err != nil {
		return err
	}
	b.Reason, b.Groups = word.Reason, groups
	p := &page{Title: "Approval", Nav: "approvals", Body: b, Problem: sentence(e)}
	p.fill(d, r, v)
	d.render(w, r, e.Status, "approval", p)
	return nil
}
