package api

import (
	"net/http"
	"path"
	"slices"
	"sort"
	"strings"

	"github.com/actpass/sidecar/gate"
)

// endpoint answers one call, or returns why it cannot.
type endpoint func(w http.ResponseWriter, r *http.Request, id gate.Identity) error

// route is one row of the table. A route is open only when open is set; without
// roles and not open, it refuses everybody.
type route struct {
	method  string
	pattern string // as in net/http's ServeMux, without method
	roles   []string
	open    bool
	do      endpoint
}

var (
	forAgents = []string{gate.RoleGateway, gate.RoleAdmin}
	forHumans = []string{gate.RoleApprover, gate.RoleAdmin}
	forAdmins = []string{gate.RoleAdmin}
	forAll    = []string{gate.RoleGateway, gate.RoleApprover, gate.RoleAdmin}
)

// table is every call of the API. docs: openapi.yaml has the same rows.
func (s *server) table() []route {
	rows := []route{
		{method: "POST", pattern: "/api/v1/actions/preflight", roles: forAgents, do: s.preflight},
		{method: "POST", pattern: "/api/v1/actions/{id}/outcome", roles: forAgents, do: s.outcome},
		{method: "POST", pattern: "/api/v1/keys", roles: forAdmins, do: s.createKey},
		{method: "GET", pattern: "/api/v1/keys", roles: forAdmins, do: s.listKeys},
		{method: "DELETE", pattern: "/api/v1/keys/{id}", roles: forAdmins, do: s.revokeKey},
		{method: "GET", pattern: "/api/v1/approvals", roles: forAll, do: s.listApprovals},
		{method: "GET", pattern: "/api/v1/approvals/proposals", roles: forHumans, do: s.listProposals},
		{method: "GET", pattern: "/api/v1/approvals/{id}", roles: forAll, do: s.getApproval},
		{method: "POST", pattern: "/api/v1/approvals/{id}/decide", roles: forAll, do: s.decide},
		{method: "GET", pattern: "/api/v1/deliveries", roles: forHumans, do: s.listDeliveries},
		{method: "POST", pattern: "/api/v1/deliveries/{id}/retry", roles: forAdmins, do: s.retryDelivery},
		{method: "POST", pattern: "/api/v1/callbacks/{name}", open: true, do: s.callback},
		{method: "POST", pattern: "/api/v1/grants", roles: forHumans, do: s.createGrant},
		{method: "GET", pattern: "/api/v1/grants", roles: forHumans, do: s.listGrants},
		{method: "GET", pattern: "/api/v1/grants/{id}", roles: forHumans, do: s.getGrant},
		{method: "DELETE", pattern: "/api/v1/grants/{id}", roles: forHumans, do: s.revokeGrant},
		{method: "POST", pattern: "/api/v1/slack/interactions", open: true, do: s.slackInteraction},
		{method: "GET", pattern: "/api/v1/passports", roles: forHumans, do: s.listPassports},
		{method: "POST", pattern: "/api/v1/passports/issue", roles: forAll, do: s.issuePassport},
		{method: "POST", pattern: "/api/v1/passports/verify", roles: forAll, do: s.verifyPassport},
		{method: "POST", pattern: "/api/v1/passports/revoke", roles: forAdmins, do: s.revokePassport},
		{method: "GET", pattern: "/api/v1/passports/jwks", roles: forAll, do: s.jwks},
		{method: "POST", pattern: "/api/v1/doctor", roles: forAgents, do: s.doctor},
		{method: "GET", pattern: "/api/v1/limits", roles: forHumans, do: s.listLimits},
		{method: "POST", pattern: "/api/v1/limits/reset", roles: forAdmins, do: s.resetLimit},
		{method: "POST", pattern: "/api/v1/modes", roles: forAdmins, do: s.setMode},
		{method: "GET", pattern: "/api/v1/modes", roles: forHumans, do: s.listModes},
		{method: "DELETE", pattern: "/api/v1/modes/{id}", roles: forAdmins, do: s.clearMode},
		{method: "GET", pattern: "/api/v1/evidence/events", roles: forHumans, do: s.listEvents},
		{method: "GET", pattern: "/api/v1/evidence/events/{id}", roles: forHumans, do: s.getEvent},
		{method: "GET", pattern: "/api/v1/evidence/counts", roles: forHumans, do: s.listCounts},
		{method: "GET", pattern: "/api/v1/evidence/decided", roles: forHumans, do: s.listDecided},
		{method: "GET", pattern: "/api/v1/evidence/verify", roles: forHumans, do: s.verifyLog},
		{method: "GET", pattern: "/api/v1/evidence/export", roles: forHumans, do: s.exportLog},
		{method: "POST", pattern: "/api/v1/simulate", roles: forHumans, do: s.simulate},
		{method: "POST", pattern: "/api/v1/explain", roles: forHumans, do: s.explain},
		{method: "POST", pattern: "/api/v1/review", roles: forHumans, do: s.review},
		{method: "GET", pattern: "/api/v1/readiness", roles: forHumans, do: s.readiness},
		{method: "GET", pattern: "/api/v1/openapi.yaml", roles: forAll, do: s.openapi},
		{method: "GET", pattern: "/healthz", open: true, do: s.healthz},
		{method: "GET", pattern: "/readyz", open: true, do: s.readyz},
	}
	if s.Metrics != nil {
		rows = append(rows, route{method: "GET", pattern: "/metrics", roles: forAll, do: s.metrics})
	}
	return rows
}

// mux joins the rows of one path into one handler that authenticates before it
// says anything about methods, and answers 404 and 405 in the API's own shape.
func (s *server) mux() http.Handler {
	mux := http.NewServeMux()
	byPath := map[string]map[string]route{}
	for _, rt := range s.routes {
		if byPath[rt.pattern] == nil {
			byPath[rt.pattern] = map[string]route{}
		}
		byPath[rt.pattern][rt.method] = rt
	}
	for pattern, methods := range byPath {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := s.dispatch(w, r, methods); err != nil {
				s.fail(w, r, err)
			}
		})
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// ServeMux would redirect an unclean path; an API client that sends one
		// has a bug which a redirect only hides.
		if _, pattern := mux.Handler(r); pattern == "" || path.Clean(r.URL.Path) != r.URL.Path {
			s.fail(w, r, &Error{Status: http.StatusNotFound, Code: "not_found", Message: "there is nothing at " + clip(r.URL.Path, 200) + "; the calls of this API are listed in /api/v1/openapi.yaml"})
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func (s *server) dispatch(w http.ResponseWriter, r *http.Request, methods map[string]route) error {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet // net/http leaves the body out
	}
	rt, known := methods[method]
	var id gate.Identity
	if !rt.open {
		var err error
		if id, err = s.authenticate(r); err != nil {
			return err
		}
		note(r).identity = id
		if wait := s.rates.take(id.TenantID+" "+id.KeyID, s.Now()); wait > 0 {
			return s.rates.tooMany(wait)
		}
	}
	if !known {
		allow := allowed(methods)
		w.Header().Set("Allow", allow)
		return &Error{Status: http.StatusMethodNotAllowed, Code: "method_not_allowed", Message: clip(r.Method, 20) + " is not possible here; possible: " + allow}
	}
	if !rt.open && !slices.Contains(rt.roles, id.Role) {
		return &Error{Status: http.StatusForbidden, Code: "forbidden", Message: "this call needs a key with the role " + strings.Join(rt.roles, " or ") + "; this key has the role " + id.Role}
	}
	return rt.do(w, r, id)
}

func allowed(methods map[string]route) string {
	var list []string
	for m := range methods {
		list = append(list, m)
		if m == http.MethodGet {
			list = append(list, http.MethodHead)
		}
	}
	sort.Strings(list)
	return strings.Join(list, ", ")
}
