package openapi

import (
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// naming is what the name of one operation is made of.
type naming struct {
	provider string
	segs     []segment
	method   string
	id       string // operationId, "" for none
	// held says that something can be got at the same path: what is posted to it is
	// then a thing and no act.
	held bool

	objects  []string // in snake case, singular
	verb     string
	version  string   // a first segment such as v2
	resource []string // parts of the resource
	last     string   // the name of the last named segment
	form     string   // what stands behind it with a dot: pdf
}

// describe fills tool, risk and resource of o.
func (n *naming) describe(o *Operation) {
	n.read()
	o.naming = n
	o.Risk = n.risk()
	// A path of dozens of names makes no template: the resource is then the URL.
	if o.Resource = n.provider + ":" + strings.Join(n.resource, "/"); len(o.Resource) > maxResource {
		o.Resource = ""
	}
}

// verbs are the words that say what is done. In a path, such a word at the end
// is the verb and no object; so is any word in the singular behind a name, when
// it is posted to.
var verbs = set(`accept acknowledge activate add advance agree allow answer append apply approve archive arm assign attach
	authenticate authorize backup ban batch block buy calculate cancel capture charge check claim clear clone close commit
	compare complete compute confirm connect consume convert copy count create deactivate debit decline decrement decrypt
	delete deliver deny deploy deprovision destroy detach diff disable disassociate disconnect discover dismiss dispatch dispute
	download drain drop duplicate echo edit enable encrypt end enroll escalate estimate evaluate exchange execute expire export
	extend fetch find fail finalize finish flush follow force fork forward freeze fulfill fund generate get grant hide hold import increment
	ingest initialize initiate insert inspect install introspect invalidate invite invoke issue join kick kill leave like link list
	lock login logout lookup mark merge migrate modify move mute notify open order patch pause pay pin ping poll post present
	preview process promote provision publish purchase purge push put query quote read reactivate reboot rebuild recalculate
	redact redeem refresh refund regenerate register reject release reload remove rename render renew reopen reorder replace replay reply
	report request require rerun reschedule resend reserve reset resize resolve respond restart restore resume retire retrieve
	retry return reverse revert review revoke rollback rotate run scale scan schedule search send set share ship sign simulate skip
	snooze split star start stop submit subscribe suspend swap switch sync tag terminate test toggle transfer transform translate
	trigger undo update upgrade upload upsert validate verify void vote wait warm watch wipe withdraw write`)

// nouns are the verbs that as often name a thing.
var nouns = set(`answer archive backup ban batch block capture charge claim comment copy credit debit dispute drain end exchange export
	fork grant hold import invite issue join like link list lock log mark merge migrate move order patch pause pin post present
	process purchase query quote record refund register release reply report request reserve reset respond return review run scan
	schedule search set share sign split star start stop switch tag test transfer vote watch`)

// act says whether a word is a verb, or one undone (unreject).
func act(w string) bool { return verbs[w] || verbs[strings.TrimPrefix(w, "un")] }

// echoes are first words of an operationId that only repeat the method, or are
// another word for what the path says better.
var echoes = map[string]string{
	"get": "", "post": "", "put": "", "patch": "", "read": "", "fetch": "", "find": "", "show": "", "describe": "",
	"retrieve": "", "view": "", "destroy": "delete", "edit": "update", "modify": "update", "insert": "create", "new": "create",
}

// ends are the verbs that a DELETE may have.
var ends = set(`archive cancel clear close deactivate delete deny deprovision detach disable disassociate disconnect drop end kick
	kill leave purge release remove reset revoke stop terminate wipe`)

func set(list string) map[string]bool {
	m := make(map[string]bool)
	for w := range strings.FieldsSeq(list) {
		m[w] = true
	}
	return m
}

// read takes the path apart.
func (n *naming) read() {
	segs := n.segs
	if len(segs) > 0 && segs[len(segs)-1] == (segment{}) {
		segs = segs[:len(segs)-1] // a final slash
	}
	for len(segs) > 1 && segs[0].literal() && generalSegment(segs[0].prefix) {
		if segs[0].prefix != "api" {
			n.version = snake(segs[0].prefix)
		}
		segs = segs[1:]
	}
	n.verb = n.fromID()
	behindName, tail := false, "" // tail: the last text, "" when a name is last
	action := ""
	for i, s := range segs {
		switch {
		case s.literal():
			text := s.prefix
			if before, after, custom := strings.Cut(text, ":"); custom && snake(after) != "" { // accounts:lookup
				text, action = before, snake(after)
			}
			w := snake(text)
			if w == "" {
				continue
			}
			behindName = tail == "" && n.last != ""
			tail = w
			// A text before another text is a name space, and stays as it is written.
			if i+1 == len(segs) || !segs[i+1].literal() {
				w = singular(w)
			}
			n.objects = append(n.objects, w)
			n.resource = append(n.resource, w)
		case s.name != "":
			n.last = s.name
			if len(n.objects) == 0 {
				n.objects = append(n.objects, snake(s.name))
				n.resource = append(n.resource, snake(s.name))
			}
			sep := "/"
			if !strings.Contains(n.resource[len(n.resource)-1], "{") {
				sep = ":"
			}
			n.resource[len(n.resource)-1] += sep + "{path." + s.name + "}"
			tail = ""
			if custom, ok := strings.CutPrefix(s.suffix, ":"); ok && snake(custom) != "" { // {charge}:capture
				action = snake(custom)
			}
			if form, ok := strings.CutPrefix(s.suffix, "."); ok { // {order}.pdf
				n.form = snake(form)
			}
		default:
			tail = ""
		}
	}
	if len(n.objects) == 0 {
		n.objects = []string{"root"}
	}
	if len(n.resource) == 0 {
		n.resource = []string{n.objects[0]}
	}
	switch {
	case action != "":
		n.verb = action
	case tail != "" && len(n.objects) > 1 && n.acts(tail, behindName):
		n.verb = tail
		n.objects = n.objects[:len(n.objects)-1]
		n.resource = n.resource[:len(n.resource)-1]
		if i := len(n.objects) - 1; n.objects[i] == n.resource[i] { // a name space no more
			n.objects[i] = singular(n.objects[i])
			n.resource[i] = n.objects[i]
		}
	case n.verb == "":
		n.verb = byMethod(n.method, tail)
	}
	if n.form != "" && tail == "" {
		n.verb += "_" + n.form
	}
}

// acts says whether the last text of a path is what is done, not what it is done
// to.
func (n *naming) acts(tail string, behindName bool) bool {
	if n.method == "DELETE" {
		return false
	}
	first, rest, _ := strings.Cut(tail, "_")
	if act(first) && !nouns[first] && (rest != "" || singular(tail) == tail) {
		return true
	}
	if reading[first] && singular(tail) == tail {
		return true
	}
	thing := n.held
	if n.method == "GET" {
		thing = behindName
	}
	if thing || singular(tail) != tail {
		return false
	}
	return act(first) || n.method == "POST" && behindName && n.verb == ""
}

func byMethod(method, tail string) string {
	switch method {
	case "GET":
		if tail != "" && singular(tail) != tail {
			return "list"
		}
		return "retrieve"
	case "POST":
		if tail == "" {
			return "update"
		}
		return "create"
	case "PUT":
		return "replace"
	case "PATCH":
		return "update"
	}
	return strings.ToLower(method)
}

// fromID is the verb of the operationId: its first word (createRelease,
// repos/create-release, Accounts_GetAccount) or, where groups are written with
// _ or ., its last (pets_list).
func (n *naming) fromID() string {
	id := n.id
	if i := strings.LastIndexByte(id, '/'); i >= 0 {
		id = id[i+1:]
	}
	groups := strings.FieldsFunc(id, func(r rune) bool { return r == '_' || r == '.' })
	for i := len(groups) - 1; i >= 0; i-- {
		w := words(groups[i])
		if len(w) == 0 {
			continue
		}
		verb := w[0]
		if better, echo := echoes[verb]; echo {
			if better == "" {
				return ""
			}
			verb = better
		}
		switch { // a document that says "create" of a DELETE does not know better
		case !act(verb), n.method == "DELETE" && !ends[verb] && !strings.HasPrefix(verb, "un"),
			n.method != "GET" && n.method != "POST" && reading[verb]:
			continue
		}
		if len(w) > 1 || len(groups) > 1 {
			return verb
		}
	}
	return ""
}

// generalSegment is a first segment that says nothing of what is called.
func generalSegment(s string) bool {
	s = strings.ToLower(s)
	if s == "api" || s == "rest" {
		return true
	}
	digits, isVersion := strings.CutPrefix(s, "v")
	if digits == "" || digits[0] < '0' || digits[0] > '9' {
		return false
	}
	return isVersion || strings.Trim(digits, "0123456789.-") == ""
}

// words splits camel case, kebab case and snake case, in lower case.
func words(s string) []string {
	var out []string
	var b strings.Builder
	flush := func() {
		if b.Len() > 0 {
			out = append(out, b.String())
			b.Reset()
		}
	}
	rs := []rune(s)
	for i, r := range rs {
		switch {
		case r >= 0x80 || !unicode.IsLetter(r) && !unicode.IsDigit(r):
			flush()
			continue
		case unicode.IsUpper(r) && i > 0 && (unicode.IsLower(rs[i-1]) || unicode.IsDigit(rs[i-1]) || i+1 < len(rs) && unicode.IsLower(rs[i+1])):
			flush()
		}
		b.WriteRune(unicode.ToLower(r))
	}
	flush()
	return out
}

func snake(s string) string {
	out := strings.Join(words(s), "_")
	if len(out) > 48 {
		out = strings.TrimRight(out[:48], "_")
	}
	return out
}

// singular takes the plural off the last word, by the rules that most English
// nouns follow. A word that it does not change counts as singular.
func singular(s string) string {
	last := lastWord(s)
	if one, irregular := irregular[last]; irregular {
		return s[:len(s)-len(last)] + one
	}
	switch {
	case len(s) < 4, strings.HasSuffix(s, "ss"), strings.HasSuffix(s, "us"), strings.HasSuffix(s, "is"), !strings.HasSuffix(s, "s"):
		return s
	case slices.Contains([]string{"news", "series", "species", "https", "aws", "kubernetes", "sms", "dns", "tls", "gps", "cors", "always", "analytics", "settings", "progress", "os"}, last):
		return s
	case strings.HasSuffix(s, "ies") && len(s) > 4:
		return s[:len(s)-3] + "y"
	case strings.HasSuffix(s, "sses"), strings.HasSuffix(s, "xes"), strings.HasSuffix(s, "ches"), strings.HasSuffix(s, "shes"), strings.HasSuffix(s, "zzes"), strings.HasSuffix(s, "statuses"), strings.HasSuffix(s, "aliases"), strings.HasSuffix(s, "buses"):
		return s[:len(s)-2]
	}
	return s[:len(s)-1]
}

var irregular = map[string]string{"people": "person", "children": "child", "indices": "index", "vertices": "vertex", "matrices": "matrix"}

func lastWord(s string) string { return s[strings.LastIndexByte(s, '_')+1:] }

// maxResource is the longest template that package mapping takes.
const maxResource = 1024

// maxTool is the longest name of a tool that package mapping takes.
const maxTool = 128

// names are the tools that the operation may have, the preferred one first.
// versioned says that the pack has more than one version.
func (n *naming) names(versioned bool) []string {
	tool := func(extra, verb string) string {
		objects := n.objects
		for {
			parts := append([]string{n.provider}, objects...)
			if extra != "" {
				parts = slices.Insert(parts, 1, extra)
			}
			t := strings.Join(append(parts, verb), ".")
			if len(t) <= maxTool-4 || len(objects) == 1 { // room for a number
				return t[:min(len(t), maxTool-4)]
			}
			objects = objects[1:] // the parents go first
		}
	}
	out := []string{tool("", n.verb)}
	if versioned && n.version != "" {
		out = append(out, tool(n.version, n.verb))
	}
	if n.last != "" {
		out = append(out, tool("", n.verb+"_by_"+snake(n.last)))
	}
	return append(out, tool("", n.verb+"_"+strings.ToLower(n.method)))
}

// assignTools gives each operation a tool of its own, none of those taken. Of
// several that want one name, the shorter path has it; deeper ones take their
// next choice, in the end a number.
func (p *Pack) assignTools(taken map[string]bool) {
	used := make(map[string]bool, len(p.Operations))
	for t := range taken {
		used[t] = true
	}
	order := make([]*Operation, len(p.Operations))
	for i := range p.Operations {
		order[i] = &p.Operations[i]
	}
	slices.SortStableFunc(order, func(a, b *Operation) int { return len(a.segs) - len(b.segs) })
	versions := make(map[string]bool)
	for _, o := range order {
		versions[o.naming.version] = true
	}
	for _, o := range order {
		o.Tool = ""
		choices := o.naming.names(len(versions) > 1)
		for _, name := range choices {
			if !used[name] {
				o.Tool = name
				break
			}
		}
		for i := 2; o.Tool == ""; i++ {
			if name := choices[0] + "_" + strconv.Itoa(i); !used[name] {
				o.Tool = name
			}
		}
		used[o.Tool] = true
	}
}
