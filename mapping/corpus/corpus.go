// Package corpus reads the collection of evasions: requests, byte for byte as
// they stand on the wire, by which enforcing proxies were bypassed, each with
// what a check that is not bypassed must do with it.
//
// A corpus is a directory of txtar archives, one per class, each file in an
// archive one case. The format is written down in
// mapping/testdata/corpus/README.md. The package only reads: it knows no rules,
// opens no connection and imports nothing of the product, so every layer can
// put the same cases to its own door.
package corpus

import (
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/tools/txtar"
)

// Door names, as in the contract's "door".
const (
	Forward     = "forward"     // absolute-form over plain HTTP
	Connect     = "connect"     // inside an intercepted CONNECT
	Reverse     = "reverse"     // base URL with a route prefix
	Transparent = "transparent" // redirected TCP, origin-form
)

// doors is every door that carries traffic; the default of "doors:".
var doors = []string{Forward, Connect, Reverse, Transparent}

// Carriers.
const (
	H1   = "h1"   // the bytes mean something only as HTTP/1
	H2   = "h2"   // only as an HTTP/2 header list
	Both = "both" // either
)

// Outcome is what must happen to a case.
type Outcome int

// The zero Outcome is Refuse: a case that forgot to say is one that must not
// pass.
const (
	// Refuse: one of Statuses, and not one byte reaches the upstream.
	Refuse Outcome = iota
	// Canonical: judged as the tool, with the arguments that the policy denies;
	// so it is refused as well, by the policy and under its own reason.
	Canonical
	// Either: refused as ambiguous or judged as Canonical. For spellings that a
	// door may read either way without softening the judgement.
	Either
	// Allow: a control. It is judged as the tool, the policy allows it, and it
	// must arrive upstream; a corpus that is only refused proves little.
	Allow
)

func (o Outcome) String() string {
	switch o {
	case Refuse:
		return "refuse"
	case Canonical:
		return "same-as-canonical"
	case Either:
		return "refuse-or-canonical"
	case Allow:
		return "allow"
	}
	return "outcome(" + strconv.Itoa(int(o)) + ")"
}

// Case is one request and what must happen to it.
type Case struct {
	Name    string // unique over the corpus: "class/name"
	Class   string // file name of the archive without .txtar
	File    string // path within the file system given to Load
	Why     string // one sentence: who reads it how
	Carrier string // H1, H2 or Both
	Doors   []string
	Wire    bool // visible only on the wire: it cannot be put as a parsed head
	Scheme  string
	// Authority is the host of the connection (the CONNECT target), port 443 for
	// https and 80 for http.
	Authority string
	Expect    Outcome
	Statuses  []int  // of Refuse and Either, never empty there
	Tool      string // of Canonical, Either and Allow
	Raw       []byte // the request on the wire, origin-form, HTTP/1 spelling
}

// At says whether the case is meant for that door.
func (c Case) At(door string) bool {
	for _, d := range c.Doors {
		if d == door {
			return true
		}
	}
	return false
}

// Load reads every *.txtar below dir, sorted by name. An error names the file
// and the case; a corpus with one bad case does not load at all.
func Load(fsys fs.FS, dir string) ([]Case, error) {
	names, err := fs.Glob(fsys, path.Join(dir, "*.txtar"))
	if err != nil {
		return nil, fmt.Errorf("list corpus %s: %w", dir, err)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("list corpus %s: no *.txtar in it", dir)
	}
	sort.Strings(names)
	var all []Case
	seen := map[string]bool{}
	for _, name := range names {
		data, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, fmt.Errorf("read corpus: %w", err)
		}
		class := strings.TrimSuffix(path.Base(name), ".txtar")
		archive := txtar.Parse(data)
		if len(archive.Files) == 0 {
			return nil, fmt.Errorf("read corpus %s: no case in it", name)
		}
		for _, f := range archive.Files {
			c, err := parse(f.Data)
			if err != nil {
				return nil, fmt.Errorf("read corpus %s, case %s: %w", name, f.Name, err)
			}
			c.Class, c.File, c.Name = class, name, class+"/"+f.Name
			if seen[c.Name] {
				return nil, fmt.Errorf("read corpus %s, case %s: the name is used twice", name, f.Name)
			}
			seen[c.Name] = true
			all = append(all, c)
		}
	}
	return all, nil
}

// parse reads one case: comment lines with the properties, then the bytes.
func parse(data []byte) (Case, error) {
	c := Case{Carrier: Both, Doors: doors, Scheme: "https", Authority: "api.stripe.com"}
	gzipBody, hasExpect := false, false
	for {
		line, rest, ok := bytes.Cut(data, []byte("\n"))
		text, comment := strings.CutPrefix(string(line), "# ")
		if !comment {
			break
		}
		if !ok {
			return c, fmt.Errorf("no request after the comment lines")
		}
		data = rest
		key, value, ok := strings.Cut(text, ":")
		if !ok {
			return c, fmt.Errorf("comment line %q is not \"key: value\"", text)
		}
		value = strings.TrimSpace(value)
		var err error
		switch key {
		case "why":
			c.Why = value
		case "carrier":
			if value != H1 && value != H2 && value != Both {
				err = fmt.Errorf("carrier %q: want h1, h2 or both", value)
			}
			c.Carrier = value
		case "doors":
			c.Doors, err = parseDoors(value)
		case "at":
			if value != "wire" {
				err = fmt.Errorf("at %q: only \"wire\" is known", value)
			}
			c.Wire = true
		case "scheme":
			if value != "http" && value != "https" {
				err = fmt.Errorf("scheme %q: want http or https", value)
			}
			c.Scheme = value
		case "authority":
			if value == "" {
				err = fmt.Errorf("an empty authority")
			}
			c.Authority = value
		case "body":
			if value != "gzip" {
				err = fmt.Errorf("body %q: only \"gzip\" is known", value)
			}
			gzipBody = true
		case "expect":
			hasExpect = true
			err = c.parseExpect(value)
		default:
			err = fmt.Errorf("unknown property %q", key)
		}
		if err != nil {
			return c, err
		}
	}
	switch {
	case !hasExpect:
		return c, fmt.Errorf("no \"# expect:\" line")
	case c.Why == "":
		return c, fmt.Errorf("no \"# why:\" line")
	case c.Wire && c.Carrier == Both:
		return c, fmt.Errorf("\"at: wire\" needs \"carrier: h1\" or \"carrier: h2\": the wires differ")
	}
	raw, err := expand(data, gzipBody)
	if err != nil {
		return c, err
	}
	c.Raw = raw
	return c, nil
}

func parseDoors(value string) ([]string, error) {
	var list []string
	for _, d := range strings.Fields(value) {
		known := false
		for _, k := range doors {
			known = known || d == k
		}
		if !known {
			return nil, fmt.Errorf("door %q: want some of %s", d, strings.Join(doors, ", "))
		}
		list = append(list, d)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("an empty list of doors")
	}
	return list, nil
}

// parseExpect reads "refuse 400|421", "same-as-canonical tool=T",
// "refuse-or-canonical 400 tool=T" or "allow tool=T".
func (c *Case) parseExpect(value string) error {
	words := strings.Fields(value)
	if len(words) == 0 {
		return fmt.Errorf("an empty expectation")
	}
	switch words[0] {
	case "refuse":
		c.Expect = Refuse
	case "same-as-canonical":
		c.Expect = Canonical
	case "refuse-or-canonical":
		c.Expect = Either
	case "allow":
		c.Expect = Allow
	default:
		return fmt.Errorf("expectation %q: want refuse, same-as-canonical, refuse-or-canonical or allow", words[0])
	}
	for _, w := range words[1:] {
		if tool, ok := strings.CutPrefix(w, "tool="); ok {
			c.Tool = tool
			continue
		}
		for _, s := range strings.Split(w, "|") {
			n, err := strconv.Atoi(s)
			if err != nil || n < 400 || n > 599 {
				return fmt.Errorf("expectation %q: %q is not a 4xx or 5xx status", value, s)
			}
			c.Statuses = append(c.Statuses, n)
		}
	}
	refuses := c.Expect == Refuse || c.Expect == Either
	if refuses != (len(c.Statuses) > 0) {
		return fmt.Errorf("expectation %q: statuses belong to refuse and refuse-or-canonical, and are needed there", value)
	}
	if (c.Expect != Refuse) != (c.Tool != "") {
		return fmt.Errorf("expectation %q: tool= belongs to every expectation but refuse, and is needed there", value)
	}
	return nil
}
