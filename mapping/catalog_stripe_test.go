package mapping_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/actpass/sidecar/mapping"
)

var update = flag.Bool("update", false, "rewrite what the tests derive (docs/catalog.md, the calls in requests.txtar); read the difference")

// compiledPack is the pack, compiled once: a Set is immutable.
var compiledPack = sync.OnceValues(func() (*mapping.Set, error) {
	src, err := mapping.Pack("stripe")
	if err != nil {
		return nil, err
	}
	return mapping.Compile([]mapping.Source{src}, mapping.Options{})
})

func stripePack(t testing.TB) *mapping.Set {
	t.Helper()
	set, err := compiledPack()
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// operation is one line of testdata/stripe/operations.txt.
type operation struct {
	method, path, id string
	params           map[string]string // dotted name: type, or "secret"
}

func stripeOperations(t testing.TB) []operation {
	t.Helper()
	data, err := os.ReadFile("testdata/stripe/operations.txt")
	if err != nil {
		t.Fatal(err)
	}
	var ops []operation
	for _, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Fields(line)
		op := operation{method: f[0], path: f[1], id: f[2], params: map[string]string{}}
		for _, p := range f[3:] {
			if name, typ, ok := strings.Cut(p, ":"); ok {
				op.params[name] = typ
			}
		}
		ops = append(ops, op)
	}
	if len(ops) < 594 {
		t.Fatalf("%d operations in the list, want the 594 of the API document and more", len(ops))
	}
	return ops
}

var segment = regexp.MustCompile(`\{([^}]*)\}`)

// sample puts an operation as a request, its named segments filled in.
func (op operation) sample() *mapping.Request {
	target := segment.ReplaceAllString(op.path, "x_$1")
	return request(op.method, "api.stripe.com:443", target, nil)
}

func request(method, authority, target string, header map[string][]string) *mapping.Request {
	return &mapping.Request{
		Method: method, Scheme: "https", Authority: authority, Host: strings.TrimSuffix(authority, ":443"),
		Target: target, Header: header,
	}
}

// groups are the tools that several operations share, and how many: older
// paths, other parents, and the same act from another place. A tool that is
// not here belongs to one operation.
var groups = map[string]int{
	"stripe.refund.create":                             5,
	"stripe.refund.list":                               2,
	"stripe.refund.retrieve":                           2,
	"stripe.refund.update":                             2,
	"stripe.dispute.retrieve":                          2,
	"stripe.dispute.update":                            2,
	"stripe.dispute.close":                             2,
	"stripe.account.retrieve":                          2,
	"stripe.balance_transaction.list":                  2,
	"stripe.balance_transaction.retrieve":              2,
	"stripe.application_fee_refund.create":             2,
	"stripe.external_account.create":                   3,
	"stripe.external_account.delete":                   3,
	"stripe.external_account.retrieve":                 3,
	"stripe.external_account.update":                   3,
	"stripe.external_account.list":                     2,
	"stripe.person.list":                               2,
	"stripe.person.create":                             2,
	"stripe.person.delete":                             2,
	"stripe.person.retrieve":                           2,
	"stripe.person.update":                             2,
	"stripe.customer_source.list":                      3,
	"stripe.customer_source.create":                    3,
	"stripe.customer_source.delete":                    3,
	"stripe.customer_source.retrieve":                  3,
	"stripe.customer_source.update":                    3,
	"stripe.customer_source.verify":                    2,
	"stripe.payment_method.list":                       2,
	"stripe.payment_method.retrieve":                   2,
	"stripe.subscription.list":                         2,
	"stripe.subscription.create":                       2,
	"stripe.subscription.cancel":                       2,
	"stripe.subscription.retrieve":                     2,
	"stripe.subscription.update":                       2,
	"stripe.subscription.delete_discount":              2,
	"stripe.tax_id.list":                               2,
	"stripe.tax_id.create":                             2,
	"stripe.tax_id.delete":                             2,
	"stripe.tax_id.retrieve":                           2,
	"stripe.financial_connections.account.list":        2,
	"stripe.financial_connections.account.retrieve":    2,
	"stripe.financial_connections.account.disconnect":  2,
	"stripe.financial_connections.account.list_owners": 2,
	"stripe.financial_connections.account.refresh":     2,
	"stripe.financial_connections.session.create":      2,
	"stripe.financial_connections.session.retrieve":    2,
}

// TestStripeOperationsAreMapped: every operation has a rule of its own or one
// of a stated group, and nothing that is not a GET is low.
func TestStripeOperationsAreMapped(t *testing.T) {
	set := stripePack(t)
	byTool := map[string][]string{}
	for _, op := range stripeOperations(t) {
		m := set.Match(op.sample())
		r := m.Read(nil, true)
		name := op.method + " " + op.path
		if len(r.Calls) != 1 || m.Rule == nil {
			t.Errorf("%s: no rule", name)
			continue
		}
		if len(r.Ambiguous) > 0 {
			t.Errorf("%s: ambiguous: %s", name, r.Ambiguous[0].Detail)
		}
		call := r.Calls[0]
		if strings.HasPrefix(call.Tool, "stripe.unknown.") {
			t.Errorf("%s: falls to %s", name, call.Tool)
		}
		if op.method != "GET" && call.Risk == mapping.RiskLow {
			t.Errorf("%s: a write at risk low (%s)", name, call.Tool)
		}
		if m.ErrorShape != "stripe" {
			t.Errorf("%s: error shape %q", name, m.ErrorShape)
		}
		byTool[call.Tool] = append(byTool[call.Tool], name)
	}
	for tool, ops := range byTool {
		if want := max(groups[tool], 1); len(ops) != want {
			t.Errorf("%s names %d operations, want %d: %s", tool, len(ops), want, strings.Join(ops, ", "))
		}
	}
	for tool := range groups {
		if byTool[tool] == nil {
			t.Errorf("group %s: no operation has that tool", tool)
		}
	}
}

// TestStripeOperationsAreListed compares the list with the API document itself,
// where stripe-mock's module is at hand.
func TestStripeOperationsAreListed(t *testing.T) {
	cache := os.Getenv("GOMODCACHE")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			t.Skip("no module cache: " + err.Error())
		}
		cache = filepath.Join(home, "go", "pkg", "mod")
	}
	data, err := os.ReadFile(filepath.Join(cache, "github.com", "stripe", "stripe-mock@v0.203.0", "embedded", "openapi", "spec3.json"))
	if err != nil {
		t.Skip("stripe-mock v0.203.0 is not in the module cache")
	}
	var doc struct {
		Paths map[string]map[string]struct {
			OperationID string `json:"operationId"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, op := range stripeOperations(t) {
		listed[op.method+" "+op.path+" "+op.id] = true
	}
	found := 0
	for path, item := range doc.Paths {
		for method, op := range item {
			if op.OperationID == "" {
				continue
			}
			found++
			if key := strings.ToUpper(method) + " " + path + " " + op.OperationID; !listed[key] {
				t.Errorf("testdata/stripe/operations.txt lacks %s", key)
			}
		}
	}
	if found < 594 {
		t.Errorf("%d operations in the document, want 594", found)
	}
}

// TestStripeParametersAreTyped: what the API takes as a number, a truth value
// or a currency is typed before policy sees it, and what is secret is marked.
func TestStripeParametersAreTyped(t *testing.T) {
	set := stripePack(t)
	for _, op := range stripeOperations(t) {
		if op.method != "POST" {
			continue
		}
		m := set.Match(op.sample())
		call := m.Read(nil, true).Calls[0]
		info, ok := set.Tool(call.Tool)
		if !ok {
			t.Errorf("%s %s: tool %s is not known", op.method, op.path, call.Tool)
			continue
		}
		declared := map[string]mapping.Arg{}
		for _, a := range info.Args {
			declared[a.Name] = a
		}
		for name, typ := range op.params {
			a, ok := declared[name]
			switch {
			case !ok:
				t.Errorf("%s %s: %s (%s) is not declared", op.method, op.path, name, typ)
			case typ == "secret" && !a.Secret:
				t.Errorf("%s %s: %s is not secret", op.method, op.path, name)
			case typ != "secret" && a.Type != typ:
				t.Errorf("%s %s: %s is declared %s, the API says %s", op.method, op.path, name, a.Type, typ)
			}
		}
	}
}

// extraSamples reach the rules that the API document does not have.
var extraSamples = [][3]string{
	{"GET", "files.stripe.com", "/v1/files/file_1/contents"},
	{"GET", "files.stripe.com", "/links/fl_1"},
	{"POST", "api.stripe.com", "/v1/customers/cus_1/subscription"},
	{"DELETE", "api.stripe.com", "/v1/customers/cus_1/subscription"},
	{"POST", "api.stripe.com", "/v2/core/accounts"},
	{"GET", "api.stripe.com", "/v2/core/accounts"},
	{"GET", "api.stripe.com", "/v2/core/accounts/acct_1"},
	{"POST", "api.stripe.com", "/v2/core/accounts/acct_1"},
	{"POST", "api.stripe.com", "/v2/core/accounts/acct_1/close"},
	{"POST", "api.stripe.com", "/v2/core/accounts/acct_1/persons"},
	{"GET", "api.stripe.com", "/v2/core/accounts/acct_1/persons"},
	{"GET", "api.stripe.com", "/v2/core/accounts/acct_1/persons/p_1"},
	{"POST", "api.stripe.com", "/v2/core/accounts/acct_1/persons/p_1"},
	{"DELETE", "api.stripe.com", "/v2/core/accounts/acct_1/persons/p_1"},
	{"POST", "api.stripe.com", "/v2/core/accounts/acct_1/person_tokens"},
	{"GET", "api.stripe.com", "/v2/core/accounts/acct_1/person_tokens/t_1"},
	{"POST", "api.stripe.com", "/v2/core/account_links"},
	{"POST", "api.stripe.com", "/v2/core/account_tokens"},
	{"GET", "api.stripe.com", "/v2/core/account_tokens/t_1"},
	{"GET", "api.stripe.com", "/v2/core/events"},
	{"GET", "api.stripe.com", "/v2/core/events/evt_1"},
	{"POST", "api.stripe.com", "/v2/core/event_destinations"},
	{"GET", "api.stripe.com", "/v2/core/event_destinations"},
	{"GET", "api.stripe.com", "/v2/core/event_destinations/ed_1"},
	{"POST", "api.stripe.com", "/v2/core/event_destinations/ed_1"},
	{"DELETE", "api.stripe.com", "/v2/core/event_destinations/ed_1"},
	{"POST", "api.stripe.com", "/v2/core/event_destinations/ed_1/enable"},
	{"POST", "api.stripe.com", "/v2/core/event_destinations/ed_1/disable"},
	{"POST", "api.stripe.com", "/v2/core/event_destinations/ed_1/ping"},
	{"POST", "api.stripe.com", "/v2/billing/meter_events"},
	{"POST", "api.stripe.com", "/v2/billing/meter_event_adjustments"},
	{"POST", "api.stripe.com", "/v2/billing/meter_event_session"},
	{"POST", "meter-events.stripe.com", "/v2/billing/meter_event_stream"},
	{"POST", "api.stripe.com", "/v2/money_management/outbound_payments"},
	{"POST", "api.stripe.com", "/v2/money_management/outbound_transfers"},
	{"POST", "api.stripe.com", "/v2/money_management/inbound_transfers"},
	{"POST", "api.stripe.com", "/v2/payments/off_session_payments"},
	{"GET", "api.stripe.com", "/v2/money_management/financial_accounts"},
	{"POST", "api.stripe.com", "/v2/money_management/outbound_payments/obp_1/cancel"},
	{"GET", "api.stripe.com", "/v2/payments/off_session_payments/osp_1"},
	{"POST", "api.stripe.com", "/v2/payments/off_session_payments/osp_1/cancel"},
	{"GET", "api.stripe.com", "/v2/iam/api_keys"},
	{"POST", "api.stripe.com", "/v2/iam/api_keys"},
	{"GET", "api.stripe.com", "/v2/core/vault/us_bank_accounts/usba_1"},
	{"POST", "api.stripe.com", "/v2/core/vault/us_bank_accounts"},
	{"GET", "api.stripe.com", "/v2/billing/cadences"},
	{"POST", "api.stripe.com", "/v2/billing/cadences"},
	{"POST", "connect.stripe.com", "/oauth/token"},
	{"POST", "connect.stripe.com", "/oauth/deauthorize"},
	{"GET", "connect.stripe.com", "/oauth/authorize"},
	{"GET", "connect.stripe.com", "/express/oauth/authorize"},
	{"GET", "dashboard.stripe.com", "/ajax/anything"},
	{"POST", "dashboard.stripe.com", "/ajax/refunds"},
}

// TestStripeRulesAreReached: no rule stands behind another that takes its calls.
func TestStripeRulesAreReached(t *testing.T) {
	set := stripePack(t)
	reached := map[int]bool{}
	reach := func(r *mapping.Request) {
		if m := set.Match(r); m.Rule != nil {
			reached[m.Rule.Line] = true
		}
	}
	for _, op := range stripeOperations(t) {
		reach(op.sample())
	}
	for _, s := range extraSamples {
		reach(request(s[0], s[1]+":443", s[2], nil))
	}
	if len(reached) != set.Len() {
		src, _ := mapping.Pack("stripe")
		for i, line := range strings.Split(string(src.Data), "\n") {
			if strings.HasPrefix(line, "  - { match:") && !reached[i+1] {
				t.Errorf("line %d is never reached: %s", i+1, strings.TrimSpace(line))
			}
		}
		t.Errorf("%d of %d rules reached", len(reached), set.Len())
	}
}

// TestStripeUnknownIsNotSofter: what the pack does not know never gets a name
// that a policy for something harmless would cover.
func TestStripeUnknownIsNotSofter(t *testing.T) {
	set := stripePack(t)
	for _, c := range []struct{ method, host, target, tool, risk string }{
		{"POST", "api.stripe.com", "/v1/refunds/re_1/duplicate", "stripe.unknown.write", mapping.RiskCritical},
		{"POST", "api.stripe.com", "/v3/payouts", "stripe.unknown.write", mapping.RiskCritical},
		{"DELETE", "api.stripe.com", "/v1/charges/ch_1", "stripe.unknown.write", mapping.RiskCritical},
		{"PUT", "api.stripe.com", "/v1/refunds", "stripe.unknown.write", mapping.RiskCritical},
		{"PATCH", "api.stripe.com", "/v1/refunds/re_1", "stripe.unknown.write", mapping.RiskCritical},
		{"POST", "api.stripe.com", "/", "stripe.unknown.write", mapping.RiskCritical},
		{"POST", "files.stripe.com", "/v1/payouts", "stripe.unknown.write", mapping.RiskCritical},
		{"POST", "dashboard.stripe.com", "/v1/refunds", "stripe.unknown.write", mapping.RiskCritical},
		{"GET", "api.stripe.com", "/v1/brand_new", "stripe.unknown.read", mapping.RiskMedium},
		{"HEAD", "api.stripe.com", "/v1/charges/ch_1", "stripe.unknown.read", mapping.RiskMedium},
		{"POST", "evil.example", "/v1/refunds", "http.post", mapping.RiskHigh},
		{"POST", "a.api.stripe.com", "/v1/refunds", "http.post", mapping.RiskHigh},
	} {
		call := set.Match(request(c.method, c.host+":443", c.target, nil)).Read(nil, true).Calls[0]
		if call.Tool != c.tool || call.Risk != c.risk {
			t.Errorf("%s %s%s: %s at %s, want %s at %s", c.method, c.host, c.target, call.Tool, call.Risk, c.tool, c.risk)
		}
	}
}

// TestStripeRecordedRequests reads testdata/stripe/requests.txtar: pairs of a
// request as an SDK sends it, and the call that it is.
func TestStripeRecordedRequests(t *testing.T) {
	set := stripePack(t)
	archive, err := txtar.ParseFile("testdata/stripe/requests.txtar")
	if err != nil {
		t.Fatal(err)
	}
	if len(archive.Files) < 40 || len(archive.Files)%2 != 0 {
		t.Fatalf("%d files in the archive, want pairs, and twenty of them", len(archive.Files))
	}
	type want struct {
		Tool     string         `json:"tool"`
		Risk     string         `json:"risk"`
		Resource string         `json:"resource"`
		Args     map[string]any `json:"args"`
		Secret   []string       `json:"secret,omitempty"`
		Problems []string       `json:"problems,omitempty"`
	}
	for i := 0; i < len(archive.Files); i += 2 {
		in, out := archive.Files[i], archive.Files[i+1]
		name := strings.TrimSuffix(in.Name, ".http")
		t.Run(name, func(t *testing.T) {
			if out.Name != name+".json" {
				t.Fatalf("%s is followed by %s", in.Name, out.Name)
			}
			head, body, _ := bytes.Cut(bytes.TrimSuffix(in.Data, []byte("\n")), []byte("\n\n"))
			lines := strings.Split(strings.TrimSuffix(string(head), "\n"), "\n")
			first := strings.Fields(lines[0])
			if bytes.Contains(head, []byte("multipart/")) {
				body = bytes.ReplaceAll(body, []byte("\n"), []byte("\r\n"))
			}
			header := map[string][]string{}
			host := ""
			for _, l := range lines[1:] {
				k, v, _ := strings.Cut(l, ": ")
				if k == "Host" {
					host = v
					continue
				}
				header[k] = append(header[k], v)
			}
			req := request(first[0], host+":443", first[1], header)
			req.ContentLength = int64(len(body))
			r := set.Match(req).Read(body, true)
			if len(r.Ambiguous) > 0 {
				t.Fatalf("ambiguous: %+v", r.Ambiguous)
			}
			call := r.Calls[0]
			got := want{Tool: call.Tool, Risk: call.Risk, Resource: call.Resource, Args: call.Args}
			for _, s := range call.Secret {
				if hasPath(call.Args, strings.Split(s, ".")) {
					got.Secret = append(got.Secret, s)
				}
			}
			sort.Strings(got.Secret)
			for _, p := range call.Problems {
				got.Problems = append(got.Problems, p.Arg+" "+p.Kind)
			}
			if *update {
				archive.Files[i+1].Data = []byte(marshal(t, got) + "\n")
				return
			}
			if diff := cmp.Diff(canonicalJSON(t, out.Data), marshal(t, got)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
	if *update {
		if err := os.WriteFile("testdata/stripe/requests.txtar", txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// hasPath says whether args has the dotted path.
func hasPath(v any, path []string) bool {
	if len(path) == 0 {
		return true
	}
	switch v := v.(type) {
	case map[string]any:
		w, ok := v[path[0]]
		return ok && hasPath(w, path[1:])
	case []any:
		return slices.ContainsFunc(v, func(w any) bool { return hasPath(w, path[1:]) })
	}
	return false
}

func marshal(t *testing.T, v any) string {
	t.Helper()
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return canonicalJSON(t, b)
}

// canonicalJSON sorts the keys and keeps numbers as they are written, so that
// 4900 and "4900" stay different.
func canonicalJSON(t *testing.T, b []byte) string {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%v in %s", err, b)
	}
	out, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
