package e2e

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var writePages = flag.Bool("write-docs", false, "write the tables of docs that tests make")

const (
	heldDoc   = "../docs/approvals.md"
	heldBegin = "<!-- held clients: made by go test ./e2e -run TestHeldAsClientsSeeIt -write-docs -->\n"
	heldEnd   = "<!-- end of held clients -->\n"
	// defaultHold is limits.hold where nothing else is configured, in seconds.
	defaultHold = 50
)

// row is what the page says of a client.
func (c heldClient) row(t testing.TB, attempts int, s said, keyed bool) string {
	retries, again := "no", "the same call"
	if attempts > 1 {
		retries = fmt.Sprintf("%d times", attempts-1)
	}
	if keyed {
		again = "the same call with the `Idempotency-Key` that the message names"
	}
	sees := fmt.Sprintf("`%s`", s.Name)
	if s.Name == "" {
		sees = "the answer's body"
	}
	if s.Status != 0 {
		sees += fmt.Sprintf(", status %d", s.Status)
	}
	return fmt.Sprintf("| %s | %s | %s | %d s | %s | %s |\n", c.name, c.version(t), retries, attempts*defaultHold, sees, again)
}

// heldPage compares the table in the page with what was seen, or writes it.
func heldPage(t testing.TB, rows []string) {
	t.Helper()
	table := "| client | version | comes back by itself | holds on for at least | raises when it gives up | try again with |\n|---|---|---|---|---|---|\n" + strings.Join(rows, "")
	text, err := os.ReadFile(heldDoc)
	must(t, err)
	before, rest, ok := strings.Cut(string(text), heldBegin)
	old, after, ended := strings.Cut(rest, heldEnd)
	if !ok || !ended {
		t.Fatalf("%s has no place for the table:\n%s%s", heldDoc, heldBegin, heldEnd)
	}
	if old == table {
		return
	}
	if !*writePages {
		t.Fatalf("%s is not current; `go test ./e2e -run TestHeldAsClientsSeeIt -write-docs` writes it. It says\n%s\nand it is\n%s", heldDoc, old, table)
	}
	must(t, os.WriteFile(heldDoc, []byte(before+heldBegin+table+heldEnd+after), 0o644))
}
