package mapping_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/actpass/sidecar/mapping"
)

// The packs are held to testdata/samples/NAME.txt: requests as the provider's
// clients send them, each followed by the calls that they are. A new pack is a
// new rule file and a new file of samples, and no Go.
//
//	> PUT https://api.github.com/repos/acme/site/pulls/12/merge
//	> Content-Type: application/json
//	>
//	> {"merge_method":"squash"}
//	github.pull.merge high github:repo:acme/site/pull:12
//	  merge_method="squash"
//
// A body is one line, in which \r\n stands for a line break and % is as it is. An
// argument is a dotted path and its value as JSON. A line "! CLASS" says that the
// request is ambiguous, a line "? ARG" that the argument is missing or invalid.

type sample struct {
	file      string
	line      int
	request   mapping.Request
	body      []byte
	calls     []sampleCall
	ambiguous []string
	problems  []string
}

type sampleCall struct {
	tool, risk, resource string
	args                 map[string]any
}

// pack is one of the catalogue's, compiled alone.
type pack struct {
	name    string
	text    string
	set     *mapping.Set
	samples []sample
}

// packs are all but Stripe's, which is held to Stripe's own API document.
var packs = sync.OnceValues(func() ([]pack, error) {
	var out []pack
	for _, name := range mapping.Packs() {
		if name == "stripe" {
			continue
		}
		src, err := mapping.Pack(name)
		if err != nil {
			return nil, err
		}
		set, err := mapping.Compile([]mapping.Source{src}, mapping.Options{})
		if err != nil {
			return nil, err
		}
		samples, err := readSamples("testdata/samples/" + name + ".txt")
		if err != nil {
			return nil, err
		}
		out = append(out, pack{name, string(src.Data), set, samples})
	}
	return out, nil
})

func allPacks(t testing.TB) []pack {
	t.Helper()
	list, err := packs()
	if err != nil {
		t.Fatal(err)
	}
	if len(list) < 19 {
		t.Fatalf("%d packs beside Stripe's, want 19", len(list))
	}
	return list
}

func readSamples(file string) ([]sample, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var out []sample
	var s *sample
	head := false // in the lines of a request
	for i, line := range strings.Split(string(data), "\n") {
		fail := func(format string, args ...any) error {
			return fmt.Errorf("%s:%d: %s", file, i+1, fmt.Sprintf(format, args...))
		}
		text, isRequest := strings.CutPrefix(line, ">")
		text = strings.TrimPrefix(text, " ")
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case isRequest && !head:
			method, target, _ := strings.Cut(text, " ")
			u, err := url.Parse(target)
			if err != nil || u.Host == "" {
				return nil, fail("%q is no method and URL", text)
			}
			_, path, _ := strings.Cut(strings.TrimPrefix(target, u.Scheme+"://"), "/")
			out = append(out, sample{file: file, line: i + 1, request: mapping.Request{
				Method: method, Scheme: u.Scheme, Authority: u.Host, Host: u.Host, Target: "/" + path, Header: map[string][]string{},
			}})
			s, head = &out[len(out)-1], true
		case isRequest && text == "":
			s.body = []byte{}
		case isRequest && s.body != nil:
			s.body = []byte(strings.ReplaceAll(text, `\r\n`, "\r\n"))
			s.request.ContentLength = int64(len(s.body))
		case isRequest:
			name, value, ok := strings.Cut(text, ": ")
			if !ok {
				return nil, fail("%q is no header", text)
			}
			s.request.Header[name] = append(s.request.Header[name], value)
		case s == nil:
			return nil, fail("%q stands before the first request", line)
		case strings.HasPrefix(line, "! "):
			s.ambiguous, head = append(s.ambiguous, line[2:]), false
		case strings.HasPrefix(line, "? "):
			s.problems, head = append(s.problems, line[2:]), false
		case strings.HasPrefix(line, "  "):
			name, value, _ := strings.Cut(line[2:], "=")
			var v any
			if len(s.calls) == 0 {
				return nil, fail("an argument without a call")
			}
			if err := json.Unmarshal([]byte(value), &v); err != nil {
				return nil, fail("the value of %s is no JSON: %v", name, err)
			}
			s.calls[len(s.calls)-1].args[name] = v
		default:
			f := strings.Fields(line)
			if len(f) != 3 {
				return nil, fail("%q is no tool, risk and resource", line)
			}
			s.calls, head = append(s.calls, sampleCall{f[0], f[1], f[2], map[string]any{}}), false
		}
	}
	return out, nil
}

// checkSample reads the request by set and compares. It gives the lines of the
// rules and cases that its calls are by.
func checkSample(t *testing.T, set *mapping.Set, s *sample) []mapping.Pos {
	t.Helper()
	r := set.Match(&s.request).Read(s.body, true)
	at := fmt.Sprintf("%s:%d: %s %s%s", s.file, s.line, s.request.Method, s.request.Authority, s.request.Target)
	var classes, problems []string
	for _, a := range r.Ambiguous {
		if !slices.Contains(classes, a.Class) {
			classes = append(classes, a.Class)
		}
	}
	if !slices.Equal(classes, s.ambiguous) {
		t.Errorf("%s: ambiguous %+v, want %v", at, r.Ambiguous, s.ambiguous)
	}
	if len(s.calls) == 0 || len(r.Calls) != len(s.calls) {
		t.Errorf("%s: %d calls, want %d", at, len(r.Calls), len(s.calls))
		return nil
	}
	var lines []mapping.Pos
	for i, call := range r.Calls {
		want := s.calls[i]
		if call.Tool != want.tool || call.Risk != want.risk || call.Resource != want.resource {
			t.Errorf("%s: %s %s %s, want %s %s %s", at, call.Tool, call.Risk, call.Resource, want.tool, want.risk, want.resource)
		}
		for name, value := range want.args {
			if got := plain(argument(call.Args, strings.Split(name, "."))); !reflect.DeepEqual(got, value) {
				t.Errorf("%s: args.%s is %v (%T), want %v (%T)", at, name, got, got, value, value)
			}
		}
		for _, p := range call.Problems {
			problems = append(problems, p.Arg)
		}
		lines = append(lines, call.Rule)
	}
	slices.Sort(problems)
	if want := slices.Sorted(slices.Values(s.problems)); !slices.Equal(problems, want) {
		t.Errorf("%s: problems with %v, want %v", at, problems, want)
	}
	return lines
}

func argument(v any, path []string) any {
	if len(path) == 0 {
		return v
	}
	switch x := v.(type) {
	case map[string]any:
		for n := len(path); n > 0; n-- { // a name may have dots itself
			if e, ok := x[strings.Join(path[:n], ".")]; ok {
				return argument(e, path[n:])
			}
		}
	case []any:
		if i, err := strconv.Atoi(path[0]); err == nil && i < len(x) {
			return argument(x[i], path[1:])
		}
	}
	return nil
}

// plain is v with numbers as JSON has them.
func plain(v any) any {
	if n, ok := v.(int64); ok {
		return float64(n)
	}
	return v
}

var (
	packRule = regexp.MustCompile(`^  - \{ match: \{`)
	packCase = regexp.MustCompile(`^      \{ on: \[`)
)

// TestPackSamples: every sample is the call it should be, in the pack alone, and
// every rule and case of a pack is reached by one.
func TestPackSamples(t *testing.T) {
	for _, p := range allPacks(t) {
		t.Run(p.name, func(t *testing.T) {
			reached := map[int]bool{}
			for i := range p.samples {
				for _, pos := range checkSample(t, p.set, &p.samples[i]) {
					reached[pos.Line] = true
				}
			}
			rules := 0
			for i, line := range strings.Split(p.text, "\n") {
				if packRule.MatchString(line) {
					rules++
				} else if !packCase.MatchString(line) {
					continue
				}
				if !reached[i+1] {
					t.Errorf("%s.yaml:%d is reached by no sample: %s", p.name, i+1, strings.TrimSpace(line))
				}
			}
			if rules != p.set.Len() {
				t.Errorf("%d rules in the form of the catalogue, the pack has %d: begin each with `  - { match: {` and each case with `      { on: [`", rules, p.set.Len())
			}
		})
	}
}

// TestPacksTogether: with all packs at once, each sample is what it is in its own
// pack, no host belongs to two, and no tool.
func TestPacksTogether(t *testing.T) {
	var sources []mapping.Source
	for _, name := range mapping.Packs() {
		src, err := mapping.Pack(name)
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, src)
	}
	all, err := mapping.Compile(sources, mapping.Options{})
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(sources)
	reversed, err := mapping.Compile(sources, mapping.Options{})
	if err != nil {
		t.Fatal(err)
	}
	list := allPacks(t)
	for _, p := range list {
		for i := range p.samples {
			s := &p.samples[i]
			checkSample(t, all, s)
			checkSample(t, reversed, s)
			for _, other := range list {
				host, port, err := mapping.Authority("https", s.request.Authority)
				if other.name != p.name && err == nil && other.set.MapsHost(host, port) {
					t.Errorf("%s belongs to the packs %s and %s", s.request.Authority, p.name, other.name)
				}
			}
		}
		for _, tool := range p.set.Tools() {
			if !strings.HasPrefix(tool, p.name+".") {
				t.Errorf("%s: the tool %s does not begin with the pack's name", p.name, tool)
			}
		}
	}
}

// reads are the last words of tools that only look, though their call is a POST.
var reads = []string{"search", "query", "retrieve", "list", "read", "fetch", "count"}

// least is the lowest risk that a tool may have, by its last word.
var least = map[string]string{
	"delete": mapping.RiskHigh, "destroy": mapping.RiskHigh, "purge": mapping.RiskHigh, "terminate": mapping.RiskHigh, "drop": mapping.RiskHigh,
	"send": mapping.RiskHigh, "publish": mapping.RiskHigh, "merge": mapping.RiskHigh, "push": mapping.RiskHigh, "deploy": mapping.RiskHigh, "exec": mapping.RiskCritical,
	"refund": mapping.RiskHigh, "pay": mapping.RiskHigh, "capture": mapping.RiskHigh, "transfer": mapping.RiskHigh,
	"share": mapping.RiskHigh, "invite": mapping.RiskHigh, "grant": mapping.RiskCritical, "impersonate": mapping.RiskCritical,
	"token": mapping.RiskCritical,
}

// critical are objects on which no write is less.
var critical = []string{"secret", "deploy_key", "api_key", "webhook", "collaborator", "access_key", "branch_protection", "policy", "role", "role_binding", "admin_key"}

// TestPackRisks: writes are never low, what deletes, sends or gives access is
// high or critical, and a tool has one risk, however it is called.
func TestPackRisks(t *testing.T) {
	rank := func(risk string) int {
		return slices.Index([]string{mapping.RiskLow, mapping.RiskMedium, mapping.RiskHigh, mapping.RiskCritical}, risk)
	}
	for _, p := range allPacks(t) {
		risks, net := map[string]string{}, map[string]bool{}
		for i := range p.samples {
			s := &p.samples[i]
			if len(s.ambiguous) > 0 {
				continue
			}
			for _, call := range p.set.Match(&s.request).Read(s.body, true).Calls {
				words := strings.Split(call.Tool, ".")
				last := words[len(words)-1]
				object := words[max(len(words)-2, 0)]
				looks := slices.Contains([]string{"GET", "HEAD", "OPTIONS"}, s.request.Method)
				at := fmt.Sprintf("%s:%d: %s at %s", s.file, s.line, call.Tool, call.Risk)
				if strings.HasPrefix(call.Tool, "mcp.") {
					continue // the tools are the server's
				}
				if !looks && call.Risk == mapping.RiskLow && !slices.Contains(reads, last) {
					t.Errorf("%s: a write is never low", at)
				}
				if rank(call.Risk) < rank(least[last]) {
					t.Errorf("%s: want at least %s", at, least[last])
				}
				if !looks && slices.Contains(critical, object) && !slices.Contains(reads, last) && call.Risk != mapping.RiskCritical {
					t.Errorf("%s: want critical", at)
				}
				if risks[call.Tool] != "" && risks[call.Tool] != call.Risk {
					t.Errorf("%s, and at %s in another call", at, risks[call.Tool])
				}
				risks[call.Tool] = call.Risk
				if call.Tool == p.name+".unknown.write" {
					net[s.request.Authority] = true
					if call.Risk != mapping.RiskCritical {
						t.Errorf("%s: what is not known counts as the worst", at)
					}
				}
			}
		}
		if p.name != "mcp" && len(net) == 0 {
			t.Errorf("%s: no sample is an unknown write", p.name)
		}
	}
}

// BenchmarkCompilePacks: a pack should cost a start no more than a few
// milliseconds.
func BenchmarkCompilePacks(b *testing.B) {
	for _, name := range mapping.Packs() {
		src, err := mapping.Pack(name)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := mapping.Compile([]mapping.Source{src}, mapping.Options{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestPackSecrets: what is declared secret is named so in every call, and no sample
// shows a token as an argument in clear.
func TestPackSecrets(t *testing.T) {
	for _, p := range allPacks(t) {
		for i := range p.samples {
			s := &p.samples[i]
			for _, call := range p.set.Match(&s.request).Read(s.body, true).Calls {
				for name := range call.Args {
					low := strings.ToLower(name)
					if slices.Contains([]string{"token", "password", "secret", "client_secret", "private_key", "access_token", "refresh_token"}, low) && !slices.Contains(call.Secret, name) {
						t.Errorf("%s:%d: %s shows %s in the record", s.file, s.line, call.Tool, name)
					}
				}
			}
		}
	}
}
