package openapi

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/actpass/sidecar/mapping"
)

const edited = `# Ours since spring. Do not lose.
name: notes
hosts: [api.notes.example]

rules:
  # We call it so, and it is critical here.
  - match: { methods: [POST], path: "/notes" }   # keep
    tool: notes.page.write
    risk: critical
    args: json

  - match: { methods: [GET, HEAD], path: "/notes/{anything}" }
    tool: notes.page.read
    resource: "notes:page:{path.anything}"

  - match: { methods: [DELETE], path: "/old/{id}" }
    tool: notes.old.delete

  # The net: a call that nobody
  # thought of.
  - match: { path: "/**" }
    tool: notes.unknown
    risk: critical
`

const notesDoc = `
openapi: 3.1.0
servers: [{ url: https://api.notes.example }]
paths:
  /notes: { get: {}, post: {} }
  /notes/{note}: { get: {}, patch: { summary: Change one } }
  /notes/search: { get: {} }
`

func merge(t *testing.T, doc, file string) (*Merged, error) {
	t.Helper()
	p, err := Read([]byte(doc), Options{Name: "notes"})
	if err != nil {
		t.Fatal(err)
	}
	return p.Merge(mapping.Source{Name: "notes.yaml", Data: []byte(file)})
}

// TestMerge: what a person wrote stays, what is new stands where it is reached,
// what is gone is said.
func TestMerge(t *testing.T) {
	m, err := merge(t, notesDoc, edited)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(edited, "  - match: { methods: [GET, HEAD], path: \"/notes/{anything}\" }\n", `  - match: { methods: [GET], path: "/notes/search" }
    tool: notes.note.search
    risk: low
    args: query
    resource: "notes:note"
  - match: { methods: [GET, HEAD], path: "/notes/{anything}" }
`, 1)
	want = strings.Replace(want, "  # The net: a call that nobody\n", `  - match: { methods: [GET], path: "/notes" }
    tool: notes.note.list
    risk: low
    args: query
    resource: "notes:note"
  # Change one
  - match: { methods: [PATCH], path: "/notes/{note}" }
    tool: notes.note.update
    risk: medium
    args: json
    resource: "notes:note:{path.note}"
  # The net: a call that nobody
`, 1)
	if diff := cmp.Diff(want, string(m.Data)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if len(m.Added) != 3 || m.Kept != 2 {
		t.Errorf("%d added, %d kept, want 3 and 2", len(m.Added), m.Kept)
	}
	gone := []Gone{{17, "HEAD", "/notes/{anything}", "notes.page.read"}, {21, "DELETE", "/old/{id}", "notes.old.delete"}}
	if diff := cmp.Diff(gone, m.Gone); diff != "" {
		t.Errorf("gone: -want +got\n%s", diff)
	}
	again, err := merge(t, notesDoc, string(m.Data))
	if err != nil {
		t.Fatal(err)
	}
	if string(again.Data) != string(m.Data) || len(again.Added) > 0 {
		t.Errorf("the second merge adds %d", len(again.Added))
	}
}

func TestMergeForms(t *testing.T) {
	for name, c := range map[string]struct{ file, want string }{
		"the end, without a final newline": {
			"hosts: [api.notes.example]\nrules:\n- match: { path: /x }\n  tool: x",
			"\n- match: { methods: [GET], path: \"/notes\" }\n  tool: notes.note.list\n",
		},
		"before what follows the rules": {
			"hosts: [api.notes.example]\nrules:\n    - match: { path: /x }\n      tool: x\n# about the name\nname: notes\n",
			"    resource: \"notes:note:{path.note}\"\n# about the name\nname: notes\n",
		},
		"line ends of Windows": {
			"hosts: [api.notes.example]\r\nrules:\r\n  - match: { path: /x }\r\n    tool: x\r\n",
			"    tool: notes.note.list\r\n    risk: low\r\n",
		},
		"other hosts": {
			"hosts: [api.notes.example, b.example]\nrules:\n  - match: { path: /x }\n    tool: x\n",
			`- match: { host: api.notes.example, methods: [GET], path: "/notes" }`,
		},
		"a tool that is taken": {
			"hosts: [api.notes.example]\nrules:\n  - match: { path: /x }\n    tool: notes.note.list\n",
			"    tool: notes.note.list_get\n",
		},
		"alternatives": {
			"hosts: [api.notes.example]\nrules:\n  - match: { methods: [GET], path: \"/{notes,books}/{id}\" }\n    tool: x\n",
			`- match: { methods: [GET], path: "/notes" }`,
		},
	} {
		m, err := merge(t, notesDoc, c.file)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !strings.Contains(string(m.Data), c.want) {
			t.Errorf("%s: %q is not in\n%q", name, c.want, m.Data)
		}
		kept := strings.TrimRight(c.file, "\r\n")
		if name != "before what follows the rules" && name != "alternatives" && !strings.HasPrefix(string(m.Data), kept) {
			t.Errorf("%s: the file has changed:\n%s", name, m.Data)
		}
		wantAdded := 5
		if name == "alternatives" {
			wantAdded = 4
		}
		if len(m.Added) != wantAdded {
			t.Errorf("%s: %d added, want %d", name, len(m.Added), wantAdded)
		}
	}
}

func TestMergeRefuses(t *testing.T) {
	for name, c := range map[string]struct{ file, want string }{
		"a flow list":  {"hosts: [api.notes.example]\nrules: [{ match: { path: /x }, tool: x }]\n", "a dash for each"},
		"a fault":      {"hosts: [api.notes.example]\nrules:\n  - match: { path: /x }\n    tol: x\n", "notes.yaml:4:5: unknown key"},
		"not a file":   {"[]", "notes.yaml"},
		"an empty one": {"", "the file is empty"},
	} {
		if _, err := merge(t, notesDoc, c.file); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q in it", name, err, c.want)
		}
	}
}

// TestMergeTakesNothing: where the order of an edited file leaves no place for a
// new rule, nothing is written.
func TestMergeTakesNothing(t *testing.T) {
	doc := `{"openapi":"3.0.0","servers":[{"url":"https://api.notes.example"}],"paths":{"/notes/1":{"get":{}},"/{a}/{b}":{"get":{}}}}`
	file := "hosts: [api.notes.example]\nrules:\n  - match: { methods: [GET], path: \"/*/[a-z]*\" }\n    tool: words\n  - match: { methods: [GET], path: /notes/1 }\n    tool: one\n"
	if _, err := merge(t, doc, file); err == nil || !strings.Contains(err.Error(), "a new rule would take GET /notes/1 from its rule") {
		t.Errorf("%v, want a refusal", err)
	}
}
