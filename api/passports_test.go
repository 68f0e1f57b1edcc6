package api

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/passport"
)

const (
	issuePath  = "/api/v1/passports/issue"
	verifyPath = "/api/v1/passports/verify"
	revokePath = "/api/v1/passports/revoke"
	jwksPath   = "/api/v1/passports/jwks"
)

// withPassports gives the real gate a signing key.
func withPassports(r *real) *real {
	r.gate.SetAuthority(&gate.Authority{
		Issuer: "actpass", Audience: "actpass",
		Keys: []passport.Key{{ID: "k1", Private: ed25519.NewKeyFromSeed([]byte(strings.Repeat("s", 32)))}},
	})
	return r
}

// wanted is the body of an issue, with constraints and more.
func wanted(constraints, more string) string {
	return `{"agent_id":"support_agent","user_id":"user_456","goal":"refund","allowed_tools":["stripe.refund.create"],"allowed_resources":["stripe:charge:*"],"resource_constraints":` + constraints + more + `}`
}

func TestAPassportFromIssueToUse(t *testing.T) {
	r := withPassports(newReal(t, gate.ModeStrict))
	agent, _ := r.key(t, `{"name":"agent","role":"gateway","agent_id":"support_agent"}`)
	r.call("POST", preflightPath, agent, refund("4900", "")).want(t, 403, "", "")

	got := r.call("POST", issuePath, r.admin, wanted(`{"max_amount":10000,"currency":"usd"}`, `,"ttl":60,"tenant_id":"acme","aud":"actpass"`))
	got.want(t, 201, "", "")
	token, jti := got.at("token").(string), got.at("jti").(string)

	seen := r.call("POST", verifyPath, agent, `{"token":"`+token+`"}`)
	seen.want(t, 200, "", "")
	if seen.at("valid") != true || seen.at("claims.jti") != jti || seen.at("claims.resource_constraints.max_amount") != float64(10000) ||
		seen.at("claims.exp").(float64)-seen.at("claims.iat").(float64) != 60 || seen.at("claims.tenant_id") != "acme" {
		t.Error(seen.body)
	}
	elsewhere := r.call("POST", verifyPath, agent, `{"token":"`+token+`","audience":"elsewhere"}`)
	elsewhere.want(t, 200, "", "")
	if elsewhere.at("valid") != false || elsewhere.at("reason_code") != "passport.audience" || elsewhere.at("claims") != nil {
		t.Error(elsewhere.body)
	}

	show := func(amount string) answer {
		return r.call("POST", preflightPath, agent, refund(amount, `,"passport":"`+token+`"`))
	}
	if a := show("4900"); a.status != 200 || a.at("decision") != "allow" {
		t.Error(a.body)
	}
	if a := show("25000"); a.status != 403 || a.at("reason_code") != "passport.constraint" {
		t.Error(a.body)
	}

	revoked := r.call("POST", revokePath, r.admin, `{"jti":"`+jti+`","reason":"lost"}`)
	revoked.want(t, 200, "", "")
	if a := show("4900"); a.status != 403 || a.at("reason_code") != "passport.revoked" {
		t.Error(a.body)
	}
	if a := r.call("POST", verifyPath, agent, `{"token":"`+token+`"}`); a.at("reason_code") != "passport.revoked" || a.at("valid") != false {
		t.Error(a.body)
	}
	r.call("POST", revokePath, r.admin, `{"jti":"`+jti+`"}`).want(t, 200, "", "")

	on := r.call("GET", "/api/v1/evidence/events?kind=passport", r.admin, "")
	on.want(t, 200, "", "")
	if !strings.Contains(on.body, jti) || !strings.Contains(on.body, "lost") || strings.Contains(on.body, token) {
		t.Errorf("on record: %s", on.body)
	}
}

// TestVerifyElsewhere verifies a token with nothing but the published keys.
func TestVerifyElsewhere(t *testing.T) {
	r := withPassports(newReal(t, gate.ModeStrict))
	got := r.call("POST", issuePath, r.admin, wanted(`{"max_amount":9007199254740993}`, ``))
	set := r.call("GET", jwksPath, r.admin, "")
	set.want(t, 200, "", "")
	keys, err := passport.ParseJWKS([]byte(set.body))
	if err != nil {
		t.Fatal(err)
	}
	want := passport.Expect{Issuer: "actpass", Audience: "actpass", Now: time.Now()}
	c, err := passport.Verify(got.at("token").(string), keys, want)
	if err != nil {
		t.Fatal(err)
	}
	if c.ResourceConstraints["max_amount"] != int64(9007199254740993) {
		t.Errorf("the bound moved to %v", c.ResourceConstraints["max_amount"])
	}
	if strings.Contains(set.body, `"d"`) {
		t.Error("a private key is published")
	}
}

func TestWhatCannotBeIssued(t *testing.T) {
	r := withPassports(newReal(t, gate.ModeStrict))
	for body, field := range map[string]string{
		`{}`: "agent_id",
		`{"agent_id":"a","allowed_resources":["*"]}`:                        "allowed_tools",
		`{"agent_id":"a","allowed_tools":["*"]}`:                            "allowed_resources",
		wanted(`{}`, `,"ttl":3601`):                                         "ttl",
		wanted(`{}`, `,"ttl":-1`):                                           "ttl",
		wanted(`{}`, `,"ttl":"5m"`):                                         "ttl",
		wanted(`{}`, `,"ttl":9223372036854775807`):                          "ttl",
		wanted(`{}`, `,"tenant_id":"other"`):                                "tenant_id",
		wanted(`{}`, `,"aud":"a","audience":"b"`):                           "aud",
		wanted(`{}`, `,"risk_tier":"odd"`):                                  "risk_tier",
		wanted(`{}`, `,"exp":1`):                                            "exp",
		wanted(`{}`, `,"goal":"`+strings.Repeat("x", 257)+`"`):              "goal",
		wanted(`{"max_amonut":1}`, ``):                                      "resource_constraints",
		wanted(`{"max_amount":"1"}`, ``):                                    "resource_constraints",
		wanted(`{"max_amount":9223372036854775808}`, ``):                    "resource_constraints",
		wanted(`{"max_amount":1e400}`, ``):                                  "resource_constraints",
		wanted(`{"max_amount":null}`, ``):                                   "resource_constraints",
		wanted(`[]`, ``):                                                    "resource_constraints",
		wanted(`{"max_amount":1,"max_amount":2}`, ``):                       "resource_constraints.max_amount",
		strings.Replace(wanted(`{}`, ``), `["stripe:charge:*"]`, `[""]`, 1): "allowed_resources",
	} {
		r.call("POST", issuePath, r.admin, body).want(t, 400, "invalid_request", field)
	}
	for _, body := range []string{`{}`, `{"token":""}`} {
		r.call("POST", verifyPath, r.admin, body).want(t, 400, "invalid_request", "token")
	}
	for _, body := range []string{`{}`, `{"jti":"k1"}`, `{"jti":"ap_\n"}`} {
		r.call("POST", revokePath, r.admin, body).want(t, 400, "invalid_request", "jti")
	}
	if a := r.call("POST", verifyPath, r.admin, `{"token":"nonsense"}`); a.at("valid") != false || a.at("reason_code") != "passport.malformed" || a.at("message") == nil {
		t.Error(a.body)
	}
}

func TestNumbersOfConstraintsAreExact(t *testing.T) {
	a := newAPI(t)
	a.call("POST", issuePath, adminKey, wanted(`{"max_amount":9007199254740993,"max":{"x":0.5,"y":1e2},"one_of":{"z":[-1,"a",true]}}`, "")).want(t, 201, "", "")
	got := a.gate.wishes[0].ResourceConstraints
	most, z := got["max"].(map[string]any), got["one_of"].(map[string]any)["z"].([]any)
	if got["max_amount"] != int64(9007199254740993) || most["x"] != 0.5 || most["y"] != float64(100) || z[0] != int64(-1) || z[1] != "a" || z[2] != true {
		t.Errorf("%#v", got)
	}
	a.call("POST", issuePath, adminKey, wanted(`null`, "")).want(t, 201, "", "")
	if a.gate.wishes[1].ResourceConstraints != nil {
		t.Errorf("%#v", a.gate.wishes[1])
	}
	if _, err := numbers(json.Number("-9223372036854775809")); err == nil || math.MaxInt64 != 9223372036854775807 {
		t.Error("an integer was rounded")
	}
}

func TestWithoutAKeyNoPassport(t *testing.T) {
	r := newReal(t, gate.ModeStrict)
	r.call("POST", issuePath, r.admin, wanted(`{}`, "")).want(t, 503, "evidence.unavailable", "")
	if a := r.call("GET", jwksPath, r.admin, ""); a.body != `{"keys":[]}`+"\n" {
		t.Error(a.body)
	}
	withPassports(r)
	if err := r.log.Close(); err != nil {
		t.Fatal(err)
	}
	r.call("POST", issuePath, r.admin, wanted(`{}`, "")).want(t, 503, "evidence.unavailable", "")
}

// TestTheWordThatApprovesMintsAPassport is about preflight's own approvals; the
// proxy's are tried end to end.
func TestTheWordThatApprovesMintsAPassport(t *testing.T) {
	r := withPassports(newReal(t, gate.ModeEnforce))
	agent, _ := r.key(t, `{"name":"agent","role":"gateway","agent_id":"support_agent"}`)
	lead, _ := r.key(t, `{"name":"Ann","role":"approver","group":"support-leads"}`)
	ask := func(amount, more string) answer { return r.call("POST", preflightPath, agent, refund(amount, more)) }

	id := ask("20000", "").at("approval_request_id").(string)
	told := r.call("POST", "/api/v1/approvals/"+id+"/decide", lead, `{"decision":"approve"}`)
	told.want(t, 200, "", "")
	token, _ := told.at("passport_token").(string)
	if token == "" || told.at("passport_expires_at") == nil {
		t.Fatal(told.body)
	}
	if a := r.call("GET", "/api/v1/approvals/"+id, lead, ""); strings.Contains(a.body, "passport") {
		t.Errorf("the token is there again: %s", a.body)
	}
	with := `,"passport":"` + token + `"`
	if a := ask("20000", with); a.status != 200 || a.at("decision") != "allow" {
		t.Error(a.body)
	}
	for _, amount := range []string{"20001", "45000", "100"} {
		if a := ask(amount, with); a.status != 403 || a.at("reason_code") != "passport.request" {
			t.Errorf("with the passport of another amount: %s", a.body)
		}
	}

	other := ask("30000", "").at("approval_request_id").(string)
	for _, body := range []string{`{"decision":"escalate","to":["support-leads"]}`, `{"decision":"deny"}`} {
		if a := r.call("POST", "/api/v1/approvals/"+other+"/decide", lead, body); a.status != 200 || strings.Contains(a.body, "passport") {
			t.Errorf("%s: %s", body, a.body)
		}
	}
}

func TestAWordStandsWithoutAPassport(t *testing.T) {
	a := newAPI(t)
	a.gate.mintErr = errors.New("the log is full")
	got := a.call("POST", "/api/v1/approvals/apr_support/decide", approverKey, `{"decision":"approve"}`)
	if got.status != 200 || got.at("state") != "approved" || strings.Contains(got.body, "passport") {
		t.Error(got.body)
	}
}

func TestAKeyWithACeilingIssuesBelowIt(t *testing.T) {
	r := withPassports(newReal(t, gate.ModeStrict))
	const cap = `{"allowed_tools":["stripe.refund.*"],"allowed_resources":["stripe:*"],"resource_constraints":{"max_amount":9007199254740993,"currency":"usd"}}`
	agent, id := r.key(t, `{"name":"agent","role":"gateway","agent_id":"support_agent","ceiling":`+cap+`}`)
	plain, _ := r.key(t, `{"name":"plain","role":"approver"}`)
	if listed := r.call("GET", "/api/v1/keys", r.admin, ""); !strings.Contains(listed.body, id) || !strings.Contains(listed.body, "9007199254740993") {
		t.Error(listed.body)
	}
	r.call("POST", issuePath, agent, wanted(`{"max_amount":9007199254740993,"currency":"usd"}`, ``)).want(t, 201, "", "")
	for _, body := range []string{
		wanted(`{"max_amount":9007199254740994,"currency":"usd"}`, ``), wanted(`{"max_amount":1}`, ``), wanted(`{}`, ``),
		strings.Replace(wanted(`{"max_amount":1,"currency":"usd"}`, ``), "support_agent", "other", 1),
	} {
		r.call("POST", issuePath, agent, body).want(t, 403, "passport.not_allowed", "")
		r.call("POST", issuePath, plain, body).want(t, 403, "passport.not_allowed", "")
	}
	for body, field := range map[string]string{
		`{"name":"n","role":"admin","ceiling":` + cap + `}`:                                                                        "ceiling",
		`{"name":"n","role":"gateway","ceiling":{}}`:                                                                               "ceiling.allowed_tools",
		`{"name":"n","role":"gateway","ceiling":{"allowed_tools":["*"],"allowed_resources":[""]}}`:                                 "ceiling.allowed_resources",
		`{"name":"n","role":"gateway","ceiling":{"allowed_tools":["*"],"allowed_resources":["*"],"ttl":1}}`:                        "ceiling.ttl",
		`{"name":"n","role":"gateway","ceiling":{"allowed_tools":["*"],"allowed_resources":["*"],"resource_constraints":{"x":1}}}`: "ceiling.resource_constraints",
	} {
		r.call("POST", "/api/v1/keys", r.admin, body).want(t, 400, "invalid_request", field)
	}
}

// TestPassportsAreListed: what was issued, without its token, to who reads the
// record, in its own tenant.
func TestPassportsAreListed(t *testing.T) {
	const path = "/api/v1/passports"
	r := withPassports(newReal(t, gate.ModeEnforce))
	lead, _ := r.key(t, `{"name":"Ann","role":"approver"}`)
	made := r.call("POST", issuePath, r.admin, wanted(`{"max_amount":9007199254740993}`, ""))
	made.want(t, 201, "", "")
	r.call("POST", issuePath, r.admin, wanted(`{}`, "")).want(t, 201, "", "")
	got := r.call("GET", path+"?limit=1", lead, "")
	got.want(t, 200, "", "")
	if strings.Contains(got.body, made.at("token").(string)) || strings.Contains(got.body, "token") {
		t.Errorf("the token is shown again: %s", got.body)
	}
	got = r.call("GET", path+"?cursor="+got.at("next_cursor").(string), lead, "")
	if got.at("data.0.jti") != made.at("jti") || got.at("data.0.state") != "live" || got.at("data.0.uses_left") != 1.0 || !strings.Contains(got.body, `"max_amount":9007199254740993`) || got.at("next_cursor") != "" {
		t.Errorf("%s", got.body)
	}
	r.call("POST", "/api/v1/passports/revoke", r.admin, `{"jti":"`+made.at("jti").(string)+`","reason":"lost"}`).want(t, 200, "", "")
	if got = r.call("GET", path+"?state=revoked", lead, ""); got.at("data.0.revoke_reason") != "lost" || got.at("data.0.uses_left") != 0.0 {
		t.Errorf("%s", got.body)
	}
}
