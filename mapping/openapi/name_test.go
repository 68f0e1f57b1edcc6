package openapi

import (
	"testing"
)

// TestNames holds the rules of docs/mapping-tools.md.
func TestNames(t *testing.T) {
	for _, c := range []struct {
		method, path, id string
		held             bool // something can be got at the path
		tool, risk, res  string
	}{
		// Collections, things in them, and what a method means on either.
		{"GET", "/v1/refunds", "", true, "p.refund.list", "low", "p:refund"},
		{"POST", "/v1/refunds", "", true, "p.refund.create", "high", "p:refund"},
		{"GET", "/v1/refunds/{refund}", "", true, "p.refund.retrieve", "low", "p:refund:{path.refund}"},
		{"POST", "/v1/refunds/{refund}", "", true, "p.refund.update", "high", "p:refund:{path.refund}"},
		{"PUT", "/v1/notes/{id}", "", true, "p.note.replace", "medium", "p:note:{path.id}"},
		{"PATCH", "/v1/notes/{id}", "", true, "p.note.update", "medium", "p:note:{path.id}"},
		{"DELETE", "/v1/notes/{id}", "", true, "p.note.delete", "high", "p:note:{path.id}"},
		{"GET", "/v1/balance", "", true, "p.balance.retrieve", "low", "p:balance"},
		{"GET", "/people/{id}", "", true, "p.person.retrieve", "medium", "p:person:{path.id}"},
		{"GET", "/categories", "", true, "p.category.list", "low", "p:category"},
		{"GET", "/status", "", true, "p.status.retrieve", "low", "p:status"},
		// Parents, name spaces, versions.
		{"POST", "/v1/charges/{charge}/refunds", "", true, "p.charge.refund.create", "high", "p:charge:{path.charge}/refund"},
		{"GET", "/v1/charges/{charge}/refunds/{refund}", "", true, "p.charge.refund.retrieve", "low", "p:charge:{path.charge}/refund:{path.refund}"},
		{"GET", "/v1/checkout/sessions", "", true, "p.checkout.session.list", "low", "p:checkout/session"},
		{"POST", "/api/v2/test_helpers/clocks", "", true, "p.test_helpers.clock.create", "medium", "p:test_helpers/clock"},
		{"GET", "/repos/{owner}/{repo}/issues/{n}", "", true, "p.repo.issue.retrieve", "low", "p:repo:{path.owner}/{path.repo}/issue:{path.n}"},
		{"GET", "/{tenant}/notes", "", true, "p.tenant.note.list", "low", "p:tenant:{path.tenant}/note"},
		{"GET", "/", "", true, "p.root.retrieve", "low", "p:root"},
		{"GET", "/mailFolders/{id}", "", true, "p.mail_folder.retrieve", "low", "p:mail_folder:{path.id}"},
		// Acts.
		{"POST", "/v1/charges/{charge}/capture", "", false, "p.charge.capture", "high", "p:charge:{path.charge}"},
		{"POST", "/v1/charges/{charge}/refund", "", false, "p.charge.refund", "high", "p:charge:{path.charge}"},
		{"POST", "/v1/charges/{charge}/dispute", "", true, "p.charge.dispute.create", "high", "p:charge:{path.charge}/dispute"},
		{"POST", "/v1/customers/{c}/cash_balance", "", true, "p.customer.cash_balance.create", "high", "p:customer:{path.c}/cash_balance"},
		{"GET", "/v1/charges/search", "", true, "p.charge.search", "low", "p:charge"},
		{"POST", "/v1/invoices/{i}/add_lines", "", false, "p.invoice.add_lines", "high", "p:invoice:{path.i}"},
		{"POST", "/v1/accounts/{a}/unreject", "", false, "p.account.unreject", "high", "p:account:{path.a}"},
		{"POST", "/accounts:lookup", "", false, "p.account.lookup", "medium", "p:account"},
		{"POST", "/charges/{charge}:capture", "", false, "p.charge.capture", "high", "p:charge:{path.charge}"},
		{"PUT", "/repos/{o}/{r}/pulls/{n}/merge", "pulls/merge", true, "p.repo.pull.merge.replace", "high", "p:repo:{path.o}/{path.r}/pull:{path.n}/merge"},
		{"GET", "/orders/{id}/cancel", "", true, "p.order.cancel", "high", "p:order:{path.id}"},
		{"GET", "/orders/{id}.pdf", "", true, "p.order.retrieve_pdf", "low", "p:order:{path.id}"},
		// The operationId's verb, where it says more than the method.
		{"POST", "/repos/{o}/{r}/releases", "repos/create-release", true, "p.repo.release.create", "high", "p:repo:{path.o}/{path.r}/release"},
		{"POST", "/repos/{o}/{r}/assignees", "issues/add-assignees", false, "p.repo.assignee.add", "medium", "p:repo:{path.o}/{path.r}/assignee"},
		{"GET", "/items/{id}", "read_item_items__item_id__get", true, "p.item.retrieve", "low", "p:item:{path.id}"},
		{"GET", "/pets", "pets_list", true, "p.pet.list", "low", "p:pet"},
		{"POST", "/users", "Users_InviteUser", true, "p.user.invite", "high", "p:user"},
		{"DELETE", "/users/{id}", "createUser", true, "p.user.delete", "critical", "p:user:{path.id}"},
		{"DELETE", "/members/{id}", "removeMember", true, "p.member.remove", "high", "p:member:{path.id}"},
		{"PUT", "/notes/{id}", "getNote", true, "p.note.replace", "medium", "p:note:{path.id}"},
		// Risks.
		{"POST", "/v1/payouts", "", true, "p.payout.create", "critical", "p:payout"},
		{"POST", "/v1/payouts/search", "", false, "p.payout.search", "medium", "p:payout"},
		{"POST", "/api_keys", "", true, "p.api_key.create", "critical", "p:api_key"},
		{"GET", "/apiKeys", "", true, "p.api_key.list", "medium", "p:api_key"},
		{"POST", "/webhooks/{id}", "", true, "p.webhook.update", "critical", "p:webhook:{path.id}"},
		{"POST", "/messages", "", true, "p.message.create", "high", "p:message"},
		{"PUT", "/projects/{id}", "", true, "p.project.replace", "high", "p:project:{path.id}"},
	} {
		segs, err := parsePath(c.path, true)
		if err != nil {
			t.Errorf("%s: %v", c.path, err)
			continue
		}
		n := &naming{provider: "p", segs: segs, method: c.method, id: c.id, held: c.held}
		var o Operation
		n.describe(&o)
		if tool := n.names(false)[0]; tool != c.tool || o.Risk != c.risk || o.Resource != c.res {
			t.Errorf("%s %s (%s): %s %s %s, want %s %s %s", c.method, c.path, c.id, tool, o.Risk, o.Resource, c.tool, c.risk, c.res)
		}
	}
}

// TestClashes: of operations that want one name, the shorter path has it, and
// all have one.
func TestClashes(t *testing.T) {
	doc := `{"openapi":"3.0.0","servers":[{"url":"https://x.example"}],"paths":{
		"/v1/notes":{"get":{}}, "/v2/notes":{"get":{}}, "/api/v1/notes":{"get":{}},
		"/account":{"get":{}}, "/accounts/{account}":{"get":{}}, "/accounts/{a}/x/{b}":{"get":{}},
		"/note/list":{"get":{}}, "/notes/list":{"post":{}}, "/note/{id}/list":{"get":{}}, "/notes/{id}/list":{"get":{}}, "/Notes/{id}/list":{"get":{}}}}`
	p, err := Read([]byte(doc), Options{Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for i := range p.Operations {
		got[p.Operations[i].label()] = p.Operations[i].Tool
	}
	for label, want := range map[string]string{
		"GET /account": "x.account.retrieve", "GET /accounts/{account}": "x.account.retrieve_by_account",
		"GET /v1/notes": "x.v1.note.list", "GET /v2/notes": "x.v2.note.list", "GET /note/list": "x.note.list",
	} {
		if got[label] != want {
			t.Errorf("%s is %s, want %s", label, got[label], want)
		}
	}
	tools := make(map[string]bool)
	for _, tool := range got {
		tools[tool] = true
	}
	if len(tools) != 11 {
		t.Errorf("%d tools for 11 operations: %v", len(tools), got)
	}
}

// TestLongNames: a tool is never longer than package mapping takes.
func TestLongNames(t *testing.T) {
	path := ""
	for range 30 {
		path += "/averylongcollectionname/{id}"
	}
	doc := `{"openapi":"3.0.0","servers":[{"url":"https://x.example"}],"paths":{"` + path + `":{"get":{}},"` + path + `/a":{"get":{}},"/b` + path + `":{"get":{}}}}`
	p, err := Read([]byte(doc), Options{Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range p.Operations {
		if len(o.Tool) > maxTool {
			t.Errorf("%d bytes: %s", len(o.Tool), o.Tool)
		}
	}
	if len(p.Operations) != 3 {
		t.Errorf("%d operations, %v left", len(p.Operations), p.Left)
	}
	compile(t, p.YAML())
}

func TestSecretArguments(t *testing.T) {
	for name, want := range map[string]bool{
		"password": true, "newPassword": true, "client_secret": true, "apiKey": true, "token": true, "access_token": true,
		"account_number": true, "cvc": true, "iban": true, "number": false, "next_page_token": false, "tokens": false, "secretary": false,
		"amount": false,
	} {
		if got := secretArg([]string{name}, ""); got != want {
			t.Errorf("%s: secret %v, want %v", name, got, want)
		}
	}
	if !secretArg([]string{"card", "number"}, "") || !secretArg([]string{"x"}, "password") {
		t.Error("a card's number and what is formatted as a password are secret")
	}
}

func TestOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"a\nb\r\n\tc": "a b c", "x\x1b[31my": "x [31my", "\u2028#evil": "#evil", "a\u0085b": "a b", "\xff": "",
	} {
		if got := oneLine(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
