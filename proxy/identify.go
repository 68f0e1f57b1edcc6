package proxy

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/mapping"
)

// identify finds out who calls. It answers false when it has refused. Inside a
// CONNECT the credentials are the CONNECT's, and are looked at again for each
// call: a key that is revoked must not live on in the tunnels that it opened.
func (x *exchange) identify(auth []string) bool {
	if x.conn.known {
		auth = x.conn.auth
	}
	id, finding, refusal := x.s.identify(x.r.Context(), x.req, auth)
	if refusal != nil {
		x.refuse(refusal)
		return false
	}
	x.req.Identity = id
	if finding != nil {
		x.req.Findings = append(x.req.Findings, *finding)
	}
	return true
}

// identify reads Proxy-Authorization. Credentials that do not hold are refused
// under enforce and strict; under monitor and warn the call goes on under the
// configured identity, and the finding says so. While the store fails, they go on
// under the identity that the key last had, if it is known.
func (s *Server) identify(ctx context.Context, req *gate.Request, auth []string) (gate.Identity, *mapping.Ambiguity, *gate.Refusal) {
	configured := s.gate.ConfigIdentity()
	if len(auth) == 0 {
		return configured, nil, nil
	}
	detail := "the key in Proxy-Authorization is not known, revoked or expired, or belongs to another agent"
	agent, key, ok := basicAuth(auth)
	var err error
	if ok {
		var id gate.Identity
		if id, err = s.gate.Authenticate(ctx, key, agent); err == nil {
			if speaksForAgents(id) {
				return id, nil, nil
			}
			// The key of somebody who approves must not act as the agent that asks.
			err, detail = gate.ErrNotAllowed, "the key in Proxy-Authorization has the role "+printable(id.Role)+", which speaks for no agent"
		}
	} else {
		err, detail = gate.ErrNotAllowed, "Proxy-Authorization is not one Basic credential of agent and key"
	}
	lenient := !fails(s.gate.ModeFor(configured))
	if !errors.Is(err, gate.ErrNotAllowed) {
		s.gate.Fault("identity", fmt.Errorf("look up the key in Proxy-Authorization: %w", err))
		if lenient {
			finding := &mapping.Ambiguity{
				Class: mapping.ClassHeader, Status: http.StatusServiceUnavailable,
				Detail: "the key in Proxy-Authorization could not be looked up, so the call is judged as the sidecar's own configured identity",
			}
			// The key's own mode, where it is stricter, refuses the call for the finding.
			if id, known := s.gate.LastKnown(key, agent); known && speaksForAgents(id) {
				finding.Detail = "the key in Proxy-Authorization could not be looked up, so the call is judged as whom it belonged to when it last could"
				return id, finding, nil
			}
			return configured, finding, nil
		}
		return configured, nil, s.gate.Reject(ctx, req, http.StatusServiceUnavailable, ReasonIdentityUnknown,
			"Who is calling could not be looked up, so the call did not leave.")
	}
	if lenient {
		return configured, &mapping.Ambiguity{Class: mapping.ClassHeader, Status: http.StatusProxyAuthRequired, Detail: detail}, nil
	}
	return configured, nil, s.gate.Reject(ctx, req, http.StatusProxyAuthRequired, ReasonUnauthenticated,
		"The call did not leave: "+detail+". Set the proxy URL to http://AGENT:KEY@HOST:PORT with a key that is in force.")
}

// speaksForAgents says whether the key behind an identity may be an agent's.
func speaksForAgents(id gate.Identity) bool {
	return id.Role == gate.RoleGateway || id.Role == gate.RoleAdmin
}

// fails says whether a mode fails closed.
func fails(mode string) bool { return mode != gate.ModeMonitor && mode != gate.ModeWarn }

// demands says whether a floor, "" for none, asks for failing closed.
func demands(floor string) bool { return floor != "" && fails(floor) }

func basicAuth(auth []string) (user, password string, ok bool) {
	if len(auth) != 1 {
		return "", "", false
	}
	scheme, rest, ok := strings.Cut(auth[0], " ")
	if !ok || !strings.EqualFold(scheme, "Basic") {
		return "", "", false
	}
	b, err := base64.StdEncoding.DecodeString(strings.TrimLeft(rest, " "))
	if err != nil {
		return "", "", false
	}
	return strings.Cut(string(b), ":")
}
