// Package openapi drafts rule files for package mapping: from an OpenAPI 3.0 or
// 3.1 document (Read), into a file that a person has edited since (Merge), and
// from the paths of calls that no rule maps (Observe).
//
// A draft is a beginning. Names and resources follow from the paths, risks are
// guesses by stated rules (docs/mapping-tools.md); what is certain is that every
// operation has exactly one rule, that the rules stand in an order in which each
// is reached, and that the file compiles. The same input gives the same bytes.
//
// The package is pure: documents come in and rule files go out as bytes.
package openapi

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/strictyaml"
)

// Options of Read.
type Options struct {
	// Name is the provider's: the first part of every tool and resource. Letters,
	// digits, _ and -.
	Name string
	// Host is the host pattern of the rules. "" takes the document's first server.
	Host string
	// Progress, when set, is called as operations are drafted.
	Progress func(done, total int)
}

// Pack is a drafted rule file.
type Pack struct {
	Name        string
	Host        string // of the operations that name none
	Description string
	Operations  []Operation // in the order of the file
	Left        []Left      // what of the input could not be drafted
}

// Operation is one method on one path: one tool.
type Operation struct {
	Method   string `json:"method"`
	Host     string `json:"host,omitempty"` // "": the pack's
	Path     string `json:"path"`           // a pattern of package mapping
	Tool     string `json:"tool"`
	Risk     string `json:"risk"`
	Resource string `json:"resource"`
	Bodies   []Body `json:"bodies"`         // one rule for each, at least one
	Summary  string `json:"-"`              // one line, for a comment
	Calls    int    `json:"seen,omitempty"` // how many calls were seen of it (Observe)

	from   string // as the document calls it: "GET /orders/{order-id}"
	segs   []segment
	naming *naming
}

// Body is one way to send the arguments of an operation.
type Body struct {
	Kind string `json:"args"` // of package mapping: form, json, query, ...
	// ContentType is the glob that Content-Type must match, "" for any: where an
	// operation takes several, all but the last are told apart by it.
	ContentType string        `json:"content_type,omitempty"`
	Args        []mapping.Arg `json:"-"` // the required ones first
	Quirks      []string      `json:"quirks,omitempty"`
}

// Left is something that has no rule, and why.
type Left struct {
	What string `json:"what"` // "POST /a/{b}"
	Why  string `json:"why"`
}

// key identifies what an operation matches, whatever its segments are called.
func (o *Operation) key() string { return o.Host + " " + o.Method + " " + shapeOf(o.segs) }

func (o *Operation) label() string { return cmp.Or(o.from, o.Method+" "+o.Path) }

// sample is a request target that the operation matches, and no other of its
// pack but where their patterns overlap.
func (o *Operation) sample() string {
	var b strings.Builder
	for _, s := range o.segs {
		b.WriteByte('/')
		b.WriteString(s.sample())
	}
	return b.String()
}

// finish puts the operations in order, names them, and makes sure that what will
// be written compiles.
func (p *Pack) finish() error {
	slices.SortStableFunc(p.Operations, compareOperations)
	kept := p.Operations[:0]
	seen := make(map[string]string)
	for _, o := range p.Operations {
		if first, dup := seen[o.key()]; dup {
			p.Left = append(p.Left, Left{o.label(), "matches the same requests as " + first})
			continue
		}
		seen[o.key()] = o.label()
		kept = append(kept, o)
	}
	p.Operations = kept
	p.assignTools(nil)
	if len(p.Operations) == 0 {
		return p.nothing()
	}
	// The checks before this one are meant to leave no fault. Should there be one
	// all the same, its operation is left out by name rather than the file refused.
	for range 3 {
		data, lines := p.write()
		_, err := mapping.Compile([]mapping.Source{{Name: "draft", Data: data}}, mapping.Options{})
		var faults strictyaml.Faults
		if err == nil {
			return nil
		}
		if !errors.As(err, &faults) {
			return fmt.Errorf("compile the draft: %w", err)
		}
		bad := make(map[int]string)
		for _, f := range faults {
			i, found := slices.BinarySearch(lines, f.Line)
			if !found {
				i--
			}
			if i < 0 { // before the first rule: name or host
				return fmt.Errorf("the draft would not be a rule file: %s", f.Message)
			}
			bad[i] = f.Message
		}
		kept := p.Operations[:0]
		for i, o := range p.Operations {
			if why, is := bad[i]; is {
				p.Left = append(p.Left, Left{o.label(), why})
				continue
			}
			kept = append(kept, o)
		}
		if p.Operations = kept; len(kept) == 0 {
			return p.nothing()
		}
	}
	return errors.New("the draft would not be a rule file, and leaving out what is at fault does not mend it")
}

func (p *Pack) nothing() error {
	if len(p.Left) > 0 {
		return fmt.Errorf("no operation can be mapped; the first: %s: %s", p.Left[0].What, p.Left[0].Why)
	}
	return errors.New("there is no operation to map")
}

var methodOrder = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"}

func methodRank(m string) int {
	if i := slices.Index(methodOrder, m); i >= 0 {
		return i
	}
	return len(methodOrder)
}
