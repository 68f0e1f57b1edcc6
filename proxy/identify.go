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
// configured identity, and the finding says so.
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
			return id, nil, nil
		}
	} else {
		err, detail = gate.ErrNotAllowed, "Proxy-Authorization is not one Basic credential of agent and key"
	}
	lenient := !fails(s.gate.ModeFor(configured))
	if !errors.Is(err, gate.ErrNotAllowed) {
		s.gate.Fault("identity", fmt.Errorf("look up the key in Proxy-Authorization: %w", err))
		if lenient {
			return configured, nil, nil
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
