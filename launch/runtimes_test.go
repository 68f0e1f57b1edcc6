package launch_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/actpass/sidecar/launch"
)

// fetchers are programs of other runtimes that print what the origin said. A door of "forward" is a request in absolute
// form: what clients other than Node send for http://.
var fetchers = []struct {
	name    string
	program string
	args    func(t *testing.T, url string) []string
	env     string   // added to the child's
	url     string   // https://api.test/x unless given
	probe   []string // must succeed, or the case is skipped: the library may not be installed
	door    string   // connect unless given
	stderr  string   // allowed prefix of standard error
}{
	{name: "curl https", program: "curl", args: curl},
	{name: "curl http", program: "curl", args: curl, url: "http://plain.test/x", door: "forward"},
	{name: "python urllib https", program: "python3", args: python(`import urllib.request
print(urllib.request.urlopen(url).read().decode())`)},
	{name: "python urllib http", program: "python3", url: "http://plain.test/x", door: "forward", args: python(`import urllib.request
print(urllib.request.urlopen(url).read().decode())`)},
	{name: "python requests", program: "python3", probe: []string{"-c", "import requests"}, args: python(`import requests
print(requests.get(url).text)`)},
	{name: "python httpx", program: "python3", probe: []string{"-c", "import httpx"}, args: python(`import httpx
print(httpx.get(url).text)`)},
	{name: "go", program: "", args: func(*testing.T, string) []string { return nil }, env: "LAUNCH_TEST_GET"},
	{name: "ruby", program: "ruby", args: func(_ *testing.T, url string) []string {
		return []string{"-rnet/http", "-e", "puts Net::HTTP.get(URI(ARGV[0]))", url}
	}},
	{name: "deno", program: "deno", args: func(t *testing.T, url string) []string {
		return []string{"run", "-A", script(t, "a.js", "console.log(await (await fetch(Deno.args[0])).text())"), url}
	}},
	{name: "bun", program: "bun", args: func(t *testing.T, url string) []string {
		return []string{script(t, "a.js", "console.log(await (await fetch(process.argv[2])).text())"), url}
	}},
	{name: "java", program: "java", stderr: "Picked up JAVA_TOOL_OPTIONS: ", args: func(t *testing.T, url string) []string {
		return []string{"-XX:TieredStopAtLevel=1", script(t, "A.java", javaSource), url}
	}},
}

// javaSource fetches by the old client and by the new one.
const javaSource = `
import java.net.URI;
import java.net.http.*;
public class A {
  public static void main(String[] args) throws Exception {
    URI uri = URI.create(args[0]);
    System.out.write(uri.toURL().openStream().readAllBytes());
    System.out.flush();
    System.out.print(HttpClient.newHttpClient().send(HttpRequest.newBuilder(uri).build(), HttpResponse.BodyHandlers.ofString()).body());
  }
}`

func curl(_ *testing.T, url string) []string { return []string{"-sS", "--fail", "-m", "20", url} }

func python(text string) func(*testing.T, string) []string {
	return func(_ *testing.T, url string) []string {
		return []string{"-c", "import sys; url = sys.argv[1]\n" + text, url}
	}
}

func TestRuntimesGoThroughTheSidecar(t *testing.T) {
	for _, tt := range fetchers {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			program := os.Args[0]
			if tt.program != "" {
				program = need(t, tt.program)
			}
			if tt.probe != nil && exec.Command(program, tt.probe...).Run() != nil {
				t.Skipf("%s: the library is not installed here", tt.name)
			}
			url, door := tt.url, tt.door
			if url == "" {
				url = "https://api.test/x"
			}
			if door == "" {
				door = "connect"
			}
			s := newSidecar(t)
			extra := func(env []string) []string {
				if tt.env != "" {
					env = append(env, tt.env+"="+url)
				}
				return env
			}

			stdout, stderr := run(t, extra(prepared(t, s, nil)), program, tt.args(t, url)...)
			answers := strings.Split(strings.TrimSpace(stdout), "\n")
			for _, answer := range answers {
				var got echo
				if err := json.Unmarshal([]byte(answer), &got); err != nil {
					t.Fatalf("the program printed %q: %v", stdout, err)
				}
				if got.Door != door || got.TLS != strings.HasPrefix(url, "https") || got.Path != "/x" {
					t.Errorf("the origin saw %+v, want /x by door %s", got, door)
				}
			}
			if tt.program == "java" && len(answers) != 2 {
				t.Errorf("%d answers, want one of either client", len(answers))
			}
			if door == "connect" {
				s.wantTargets(t, "api.test:443")
			}
			if stderr != "" && (tt.stderr == "" || !strings.HasPrefix(stderr, tt.stderr)) {
				t.Errorf("standard error: %s", stderr)
			}
		})
	}
}

// The same programs fail when only the way, or only the trust, is missing: neither comes from this machine.
func TestRuntimesNeedBothWayAndTrust(t *testing.T) {
	for _, name := range []string{"curl https", "python urllib https", "go"} {
		for _, tt := range fetchers {
			if tt.name != name {
				continue
			}
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				program := os.Args[0]
				if tt.program != "" {
					program = need(t, tt.program)
				}
				const url = "https://api.test/x"
				base := clean()
				if tt.env != "" {
					base = append(base, tt.env+"="+url)
				}
				s := newSidecar(t)
				if stdout, _, err := try(t, base, program, tt.args(t, url)...); err == nil || len(s.targets()) != 0 {
					t.Errorf("without the environment it printed %q and the sidecar saw %q", stdout, s.targets())
				}
				way := append(base[:len(base):len(base)], "https_proxy="+s.URL, "HTTPS_PROXY="+s.URL)
				if stdout, _, err := try(t, way, program, tt.args(t, url)...); err == nil || s.count("api.test:443") == 0 {
					t.Errorf("with the proxy alone it printed %q and the sidecar saw %q", stdout, s.targets())
				}
			})
		}
	}
}

func TestGitGoesThroughTheSidecar(t *testing.T) {
	t.Parallel()
	git := need(t, "git")
	s := newSidecar(t)
	env := append(prepared(t, s, nil), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0")
	stdout, _ := run(t, env, git, "ls-remote", "https://git.test/repo.git")
	if want := "1111111111111111111111111111111111111111\trefs/heads/main\n"; stdout != want {
		t.Errorf("git ls-remote printed %q, want %q", stdout, want)
	}
	s.wantTargets(t, "git.test:443")
}

// Loopback stays in reach by default, and the sidecar's other listeners even without it.
func TestLoopbackIsDirect(t *testing.T) {
	t.Parallel()
	program := need(t, "python3")
	s := newSidecar(t)
	reverse := newSidecar(t)
	fetch := python("import urllib.request\nprint(urllib.request.urlopen(url).read().decode())")
	for _, tt := range []struct {
		name    string
		noProxy []string
		door    string
	}{
		{"by default", nil, "direct"},
		{"with an empty list", []string{}, "forward"},
	} {
		env := prepared(t, s, func(o *launch.Options) { o.NoProxy = tt.noProxy })
		stdout, _ := run(t, env, program, fetch(t, reverse.URL+"/x")...)
		if !strings.Contains(stdout, `"door":"`+tt.door+`"`) {
			t.Errorf("%s: %s, want door %s", tt.name, stdout, tt.door)
		}
	}
	env := prepared(t, s, func(o *launch.Options) { o.NoProxy = []string{}; o.ReverseURL = reverse.URL })
	if stdout, _ := run(t, env, program, fetch(t, reverse.URL+"/x")...); !strings.Contains(stdout, `"door":"direct"`) {
		t.Errorf("the reverse listener: %s, want door direct", stdout)
	}
}
