package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/actpass/sidecar/api"
)

// asked is one call that a client is told to make: the same N is the same call.
type asked struct {
	N   int64  `json:"n"`
	Key string `json:"key"` // idempotency key, "" for the client's own
}

// said is what the caller of an SDK got.
type said struct {
	OK      bool   `json:"ok"`
	Value   string `json:"value,omitempty"`
	Status  int    `json:"status,omitempty"`
	Name    string `json:"name,omitempty"`
	Message string `json:"message,omitempty"`
}

// heldClient is a client with its defaults, on its way through a sidecar.
type heldClient struct {
	name    string
	version func(t testing.TB) string
	tool    string // that its call is
	value   string // what the upstream's answer gives the caller
	// attempts that it makes by itself before it gives up, and the status that it
	// shows then, 0 where its error has none.
	attempts, status int
	// open starts the client; say makes a call, and blocks until the client is done.
	open func(t testing.TB, sc *sidecar) (say func(asked) said)
}

const heldHold = "700ms"

// heldHosts are where the clients of this test go.
var heldHosts = []string{"api.stripe.com", "api.openai.com", "api.github.com", "acme.s3.us-east-1.amazonaws.com", "everything.example.test"}

const heldPolicy = `policies:
  - name: humans
    version: 1
    tools: ["stripe.refund.create", "openai.chat.create", "github.issue.comment.create", "aws.s3.object.write", "mcp.everything.echo"]
    rules: [{ name: a_human, decision: require_approval, reason_code: needs.a_human }]
  - { name: session, version: 1, tools: ["mcp.everything"], rules: [{ name: session, decision: allow, reason_code: mcp.session }] }
`

const everythingRules = `name: everything
errors: jsonrpc
rules:
  - { match: { host: everything.example.test, path: /mcp }, tool: mcp.everything, risk: high, args: jsonrpc, mcp: everything }
`

// heldSidecar writes the configuration and starts nothing.
func heldSidecar(t testing.TB, u *upstream) *sidecar {
	t.Helper()
	sc := &sidecar{t: t, dir: t.TempDir()}
	must(t, os.WriteFile(filepath.Join(sc.dir, "mapping.yaml"), []byte(everythingRules), 0o644))
	must(t, os.WriteFile(filepath.Join(sc.dir, "policy.yaml"), []byte(heldPolicy), 0o644))
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("mode: enforce")
	p("identity: { tenant_id: acme, agent_id: support_agent }")
	p("listen: { proxy: 127.0.0.1:0, reverse: 127.0.0.1:0, api: 127.0.0.1:0 }")
	p("mapping: { packs: [stripe, openai, github, aws], files: [./mapping.yaml] }")
	p("policy: { files: [./policy.yaml] }")
	p("limits: { hold: %s }", heldHold)
	p("upstream:")
	p("  allow_private: [127.0.0.0/8]")
	p("  ca_file: %s", u.caFile)
	p("  connect_to:")
	for _, host := range heldHosts {
		p("    - { host: %s, port: 443, address: %q }", host, u.tls)
	}
	sc.config = filepath.Join(sc.dir, "config.yaml")
	must(t, os.WriteFile(sc.config, []byte(b.String()), 0o644))
	return sc
}

// heldUpstream answers for all the providers.
func heldUpstream(t testing.TB, c heldClient) *upstream {
	t.Helper()
	mcp := http.NotFoundHandler()
	if c.name == mcpClient {
		p := httputil.NewSingleHostReverseProxy(everything(t))
		p.FlushInterval, p.ErrorLog = -1, log.New(io.Discard, "", 0)
		mcp = p
	}
	return newFront(t, heldHosts, func(w http.ResponseWriter, r *http.Request) {
		switch r.Host {
		case "api.stripe.com":
			answerJSON(w, 200, `{"object":"refund","id":"re_1"}`)
		case "api.openai.com":
			answerJSON(w, 200, `{"id":"c1","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}]}`)
		case "api.github.com":
			answerJSON(w, 201, `{"id":42}`)
		case "everything.example.test":
			mcp.ServeHTTP(w, r)
		default:
			w.Header().Set("ETag", `"e1"`)
		}
	})
}

const mcpClient = "MCP TypeScript client"

// program is a client in a process of its own, spoken to line by line.
func program(t testing.TB, cmd *exec.Cmd) func(asked) said {
	t.Helper()
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	var complaints strings.Builder
	cmd.Stderr = &complaints
	must(t, cmd.Start())
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Process.Signal(os.Interrupt); _ = cmd.Wait() })
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	return func(a asked) (s said) {
		must(t, json.NewEncoder(in).Encode(a))
		if !lines.Scan() {
			t.Errorf("the client ended: %v %s", lines.Err(), &complaints)
			return said{}
		}
		must(t, json.Unmarshal(lines.Bytes(), &s))
		return s
	}
}

// fromNPM is a package of ./node inside `actpass run`.
func fromNPM(script string) func(t testing.TB, sc *sidecar) func(asked) said {
	return func(t testing.TB, sc *sidecar) func(asked) said {
		at := filepath.Join(sc.dir, "api-url")
		cmd := exec.Command(binary, "run", "--config", sc.config, "--",
			"sh", "-c", `printf %s "$ACTPASS_API_URL" >"$0.part" && mv "$0.part" "$0" && exec "$@"`, at, "node", nodeScript(t, "held.mjs"), script)
		say := program(t, cmd)
		eventually(t, "actpass run starts its command", func() bool {
			text, err := os.ReadFile(at)
			sc.api = strings.TrimPrefix(string(text), "http://")
			return err == nil
		})
		sc.admin = sc.key("--name", "admin", "--role", "admin")
		return say
	}
}

func (sc *sidecar) serve(t testing.TB) {
	t.Helper()
	sc.run()
	sc.admin = sc.key("--name", "admin", "--role", "admin")
	t.Cleanup(sc.stop)
}

// fromGo is an SDK in this binary, beside `actpass serve`.
func fromGo(name string) func(t testing.TB, sc *sidecar) func(asked) said {
	return func(t testing.TB, sc *sidecar) func(asked) said {
		sc.serve(t)
		self, err := os.Executable()
		must(t, err)
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), "E2E_HELD="+name, "HTTPS_PROXY=http://"+sc.proxy, "SSL_CERT_FILE="+filepath.Join(sc.dir, "data", "ca", "ca.pem"))
		return program(t, cmd)
	}
}

// fromCurl is a command line, run once a call.
func fromCurl(flags ...string) func(t testing.TB, sc *sidecar) func(asked) said {
	return func(t testing.TB, sc *sidecar) func(asked) said {
		need(t, "curl")
		sc.serve(t)
		return func(a asked) said {
			cmd := exec.Command("curl", append(flags, "-sS", "-w", "\n%{http_code}", "https://api.stripe.com/v1/refunds", "-u", "sk_test_123:",
				"-d", "charge=ch_123", "-d", "currency=usd", "-d", fmt.Sprint("amount=", a.N))...)
			cmd.Env = append(os.Environ(), "HTTPS_PROXY=http://"+sc.proxy, "CURL_CA_BUNDLE="+filepath.Join(sc.dir, "data", "ca", "ca.pem"))
			out, err := cmd.Output()
			body, status, _ := strings.Cut(string(out), "\n")
			if err == nil && status == "200" && strings.Contains(body, `"refund"`) {
				return said{OK: true, Value: "refund"}
			}
			// With retries, curl prints the answers of all its attempts.
			var s said
			_, _ = fmt.Sscan(lastLine(string(out)), &s.Status)
			s.Message = string(out)
			return s
		}
	}
}

// lastLine is the last line of what curl printed: the status.
func lastLine(out string) string { return out[strings.LastIndexByte(out, '\n')+1:] }

func npmVersion(name string) func(t testing.TB) string {
	return func(t testing.TB) string {
		var p struct{ Dependencies map[string]string }
		text, err := os.ReadFile("node/package.json")
		must(t, err)
		must(t, json.Unmarshal(text, &p))
		return p.Dependencies[name]
	}
}

func goVersion(module string) func(t testing.TB) string {
	return func(t testing.TB) string {
		text, err := os.ReadFile("../go.mod") // a test binary does not know its modules
		must(t, err)
		_, version, ok := strings.Cut(string(text), "\t"+module+" v")
		if !ok {
			t.Fatalf("%s is not in go.mod", module)
		}
		return strings.Fields(version)[0]
	}
}

// Curl comes with the machine, so the page does not name its version.
func anyVersion(testing.TB) string { return "any" }

var heldClients = []heldClient{
	{name: "stripe-node", version: npmVersion("stripe"), tool: "stripe.refund.create", value: "refund", attempts: 3, status: 503, open: fromNPM("stripe")},
	{name: "stripe-go", version: goVersion("github.com/stripe/stripe-go/v82"), tool: "stripe.refund.create", value: "refund", attempts: 3, open: fromGo("stripe")},
	{name: "openai-node", version: npmVersion("openai"), tool: "openai.chat.create", value: "hi", attempts: 3, status: 503, open: fromNPM("openai")},
	{name: "Octokit with plugin-retry", version: npmVersion("@octokit/plugin-retry"), tool: "github.issue.comment.create", value: "42", attempts: 4, status: 503, open: fromNPM("octokit")},
	{name: "aws-sdk-js v3", version: npmVersion("@aws-sdk/client-s3"), tool: "aws.s3.object.write", value: `"e1"`, attempts: 3, status: 503, open: fromNPM("aws")},
	{name: "aws-sdk-go-v2", version: goVersion("github.com/aws/aws-sdk-go-v2"), tool: "aws.s3.object.write", value: `"e1"`, attempts: 3, status: 503, open: fromGo("aws")},
	{name: mcpClient, version: npmVersion("@modelcontextprotocol/sdk"), tool: "mcp.everything.echo", value: "Echo: hello", attempts: 1, status: 503, open: fromNPM("mcp")},
	{name: "curl", version: anyVersion, tool: "stripe.refund.create", value: "refund", attempts: 1, status: 503, open: fromCurl()},
	{name: "curl --retry 3", version: anyVersion, tool: "stripe.refund.create", value: "refund", attempts: 4, status: 503, open: fromCurl("--retry", "3")},
}

// TestHeldAsClientsSeeIt holds each client, with its defaults, to what the page
// promises its users: where it comes back by itself, an approval between two of
// its attempts lets exactly one call through, and the caller gets the answer.
// Where it gives up, its error says what happened and how to go on; going on
// attaches, and again exactly one call goes through.
func TestHeldAsClientsSeeIt(t *testing.T) {
	t.Parallel()
	rows := make([]string, len(heldClients))
	// They wait for most of the time, so all at once, however many tests may run in parallel.
	var wg sync.WaitGroup
	for i, c := range heldClients {
		wg.Go(func() { t.Run(c.name, func(t *testing.T) { rows[i] = c.held(t) }) })
	}
	wg.Wait()
	if slices.Contains(rows, "") {
		return // failed, or skipped for want of the client
	}
	heldPage(t, rows)
}

var (
	namedApproval = regexp.MustCompile(`apr_[0-9a-z-]+`)
	namedKey      = regexp.MustCompile(`with Idempotency-Key ([!-~]+) to wait`)
)

func (c heldClient) held(t *testing.T) (row string) {
	u := heldUpstream(t, c)
	sc := heldSidecar(t, u)
	say := c.open(t, sc)
	asks := func(a asked) <-chan said {
		came := make(chan said, 1)
		go func() { came <- say(a) }()
		return came
	}
	// The calls of the tool on record, and those of them that arrived.
	calls := func(after int) (own []event) {
		for _, e := range sc.events() {
			if e.Tool == c.tool {
				own = append(own, e)
			}
		}
		return own[min(after, len(own)):]
	}
	arrived := func() (n int) {
		for _, r := range u.requestsSeen() {
			if c.name != mcpClient || strings.Contains(string(r.Body), `"tools/call"`) {
				n++
			}
		}
		return n
	}
	fits := func(s said, n int) {
		t.Helper()
		if !s.OK || !strings.HasPrefix(s.Value, c.value) {
			t.Errorf("the caller got %+v, want %s", s, c.value)
		}
		if got := arrived(); got != n {
			t.Errorf("the upstream saw %d calls, want exactly %d", got, n)
		}
	}
	done, sent := 0, 0

	if c.attempts > 1 {
		came := asks(asked{N: 1})
		eventually(t, "the first attempt is answered", func() bool { return answered(calls(0)) == 1 })
		a := sc.decide(sc.pending())
		s := await(t, came)
		sent++
		fits(s, sent)
		all := calls(0)
		if len(all) != 2 || all[1].Outcome.State != "forwarded" {
			t.Errorf("want two attempts, the second of them sent: %+v", all)
		} else if !a.DecidedAt.Time.Before(all[1].Time) {
			t.Logf("the approval came %v after the second attempt, not before it", a.DecidedAt.Time.Sub(all[1].Time))
		}
		done = len(all)
	}

	s := await(t, asks(asked{N: 2}))
	if s.OK || s.Status != c.status {
		t.Errorf("the caller got %+v, want an error with status %d", s, c.status)
	}
	attempts := len(calls(done))
	if attempts != c.attempts {
		t.Errorf("%d attempts, want %d", attempts, c.attempts)
	}
	if attempts == 0 {
		t.Fatal("there was no attempt")
	}
	id := sc.pending()
	if named := namedApproval.FindString(s.Message); named != id || !strings.Contains(s.Message, "ActPass holds this call for a human") ||
		!strings.Contains(s.Message, "It was not sent") || !strings.Contains(s.Message, "send the same call again") {
		t.Errorf("the caller is told %q, want approval %s in it", s.Message, id)
	}
	if got := arrived(); got != sent {
		t.Errorf("the upstream saw %d calls before anybody approved", got-sent)
	}
	sc.decide(id)
	again := asked{N: 2}
	if m := namedKey.FindStringSubmatch(s.Message); m != nil {
		again.Key = m[1]
	}
	fits(await(t, asks(again)), sent+1)
	page, err := sc.client().Approvals(context.Background(), "", "", "", 10)
	must(t, err)
	if len(page.Data) != sent+1 || slices.ContainsFunc(page.Data, func(a api.Approval) bool { return a.State != "consumed" }) {
		t.Errorf("want %d approvals, each of them used: %+v", sent+1, page.Data)
	}
	return c.row(t, attempts, s, again.Key != "")
}

// answered counts the attempts that were sent away with 503.
func answered(calls []event) (n int) {
	for _, e := range calls {
		if e.Outcome.Status == http.StatusServiceUnavailable {
			n++
		}
	}
	return n
}

// decide approves as an approver's own program does.
func (sc *sidecar) decide(id string) api.Approval {
	sc.t.Helper()
	a, err := sc.client().Decide(context.Background(), id, api.Verdict{Decision: "approve", Reason: "checked"})
	must(sc.t, err)
	return a
}

func await(t testing.TB, came <-chan said) said {
	t.Helper()
	select {
	case s := <-came:
		return s
	case <-time.After(60 * time.Second):
		t.Fatal("the client is not done")
		return said{}
	}
}
