package corpus_test

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/actpass/sidecar/mapping/corpus"
)

func load(t testing.TB, text string) ([]corpus.Case, error) {
	t.Helper()
	return corpus.Load(fstest.MapFS{"c/x.txtar": {Data: []byte(text)}}, "c")
}

const properties = "-- a --\n# why: w\n# expect: refuse 400\n"

func TestBytesOnTheWire(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"line ends", "POST / HTTP/1.1\nHost: h\n\nabc\n", "POST / HTTP/1.1\r\nHost: h\r\n\r\nabc"},
		{"head only", "POST / HTTP/1.1\nHost: h\n\n\n", "POST / HTTP/1.1\r\nHost: h\r\n\r\n"},
		{"escapes", "A\\x00\\r\\n\\t\\s\\\\\n", "A\x00\r\n\t \\"},
		{"joined", "A\\\nB\n", "AB"},
		{"length", "A\nContent-Length: {len}\n\nabcde\n", "A\r\nContent-Length: 5\r\n\r\nabcde"},
		{"length in the body stays", "A\n\n{len}\n", "A\r\n\r\n{len}"},
		{"repetition", "A\\rep{3}{x\\x01}B\n", "Ax\x01x\x01x\x01B"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := load(t, properties+c.text)
			if err != nil {
				t.Fatal(err)
			}
			if string(got[0].Raw) != c.want {
				t.Errorf("got  %q\nwant %q", got[0].Raw, c.want)
			}
		})
	}
}

func TestLoadRefuses(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"nothing", "", "no case"},
		{"no expectation", "-- a --\n# why: w\nPOST /\n", "expect"},
		{"no reason", "-- a --\n# expect: refuse 400\nPOST /\n", "why"},
		{"unknown property", "-- a --\n# colour: red\nPOST /\n", "unknown property"},
		{"unknown expectation", "-- a --\n# expect: pass\nPOST /\n", "expectation"},
		{"refuse without status", "-- a --\n# expect: refuse\nPOST /\n", "statuses"},
		{"status of success", "-- a --\n# expect: refuse 200\nPOST /\n", "4xx"},
		{"canonical without tool", "-- a --\n# expect: same-as-canonical\nPOST /\n", "tool="},
		{"allow with status", "-- a --\n# expect: allow 400 tool=t\nPOST /\n", "statuses"},
		{"unknown door", "-- a --\n# doors: window\nPOST /\n", "door"},
		{"wire without carrier", "-- a --\n# why: w\n# expect: refuse 400\n# at: wire\nPOST /\n", "carrier"},
		{"unknown escape", properties + "\\q\n", "escape"},
		{"bad hex", properties + "\\xzz\n", "escape"},
		{"raw carriage return", properties + "a\rb\n", "carriage return"},
		{"too large at once", properties + "\\rep{99999999}{abc}\n", "\\rep{99999999} expands"},
		{"too large for an integer", properties + "\\rep{9223372036854775807}{abc}\n", "\\rep{9223372036854775807} expands"},
		{"too large in pieces", properties + "\\rep{3000000}{a}\\rep{3000000}{a}\n", "the case expands"},
		{"twice", properties + "x\n" + properties + "y\n", "twice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := load(t, c.text)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one about %q", err, c.want)
			}
		})
	}
}

func TestBytesAtADoor(t *testing.T) {
	cases, err := load(t, properties+"POST /v1/refunds HTTP/1.1\nHost: api.stripe.com\n\nx\n")
	if err != nil {
		t.Fatal(err)
	}
	for door, want := range map[string]string{
		corpus.Connect:     "POST /v1/refunds HTTP/1.1\r\nHost: api.stripe.com\r\n\r\nx",
		corpus.Transparent: "POST /v1/refunds HTTP/1.1\r\nHost: api.stripe.com\r\n\r\nx",
		corpus.Forward:     "POST http://api.stripe.com/v1/refunds HTTP/1.1\r\nHost: api.stripe.com\r\n\r\nx",
		corpus.Reverse:     "POST /stripe/v1/refunds HTTP/1.1\r\nHost: 127.0.0.1:8081\r\n\r\nx",
	} {
		if got := cases[0].Bytes(door, "127.0.0.1:8081", "/stripe"); string(got) != want {
			t.Errorf("%s: got  %q\nwant %q", door, got, want)
		}
	}
}

// TestCommittedCorpus holds the collection to what it promises: enough cases,
// every class, and controls of both kinds.
func TestCommittedCorpus(t *testing.T) {
	cases, err := corpus.Load(os.DirFS("../testdata"), "corpus")
	if err != nil {
		t.Fatal(err)
	}
	perClass, perOutcome := map[string]int{}, map[corpus.Outcome]int{}
	for _, c := range cases {
		perClass[c.Class]++
		perOutcome[c.Expect]++
		if !bytes.Contains(c.Raw, []byte(" ")) && !bytes.Contains(c.Raw, []byte("\t")) {
			t.Errorf("%s: no request line in %q", c.Name, c.Raw)
		}
		if c.Wire {
			continue
		}
		if _, _, err := c.Split(); err != nil {
			t.Errorf("%s is not marked \"at: wire\", but %v", c.Name, err)
		}
	}
	if len(cases) < 150 {
		t.Errorf("%d cases, want at least 150", len(cases))
	}
	for _, class := range []string{
		"alias", "authority", "aws", "connect", "content-type", "control", "encoding", "form", "framing", "h2", "header",
		"graphql", "json", "jsonrpc", "method", "multipart", "path", "query", "size", "upgrade",
	} {
		if perClass[class] == 0 {
			t.Errorf("class %s has no case", class)
		}
	}
	for _, o := range []corpus.Outcome{corpus.Refuse, corpus.Canonical, corpus.Either, corpus.Allow} {
		if perOutcome[o] == 0 {
			t.Errorf("no case expects %s", o)
		}
	}
}

// TestControlsAreHTTP reads the controls with net/http: what must go through is
// a request that any server understands, or its arrival would prove nothing.
func TestControlsAreHTTP(t *testing.T) {
	cases, err := corpus.Load(os.DirFS("../testdata"), "corpus")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		if c.Expect != corpus.Allow && c.Class != "control" {
			continue
		}
		for _, door := range c.Doors {
			raw := c.Bytes(door, "127.0.0.1:8081", "/stripe")
			rd := bufio.NewReader(bytes.NewReader(raw))
			req, err := http.ReadRequest(rd)
			if err != nil {
				t.Errorf("%s at %s: %v", c.Name, door, err)
				continue
			}
			body, err := io.ReadAll(req.Body)
			if err != nil {
				t.Errorf("%s at %s: %v", c.Name, door, err)
			}
			if c.Authority == "api.stripe.com" && req.Method == http.MethodPost && !bytes.Contains(body, []byte("amount=")) {
				t.Errorf("%s at %s: body %q", c.Name, door, body)
			}
			if rest, _ := io.ReadAll(rd); len(rest) > 0 {
				t.Errorf("%s at %s: %q left after the request", c.Name, door, rest)
			}
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(properties + "POST / HTTP/1.1\nContent-Length: {len}\n\n\\rep{3}{x}\\x00\n")
	f.Add("-- a --\n# expect: refuse-or-canonical 400|421 tool=t\n# body: gzip\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		cases, err := load(t, text)
		if err != nil {
			return
		}
		for _, c := range cases {
			if _, body, err := c.Split(); err == nil && len(body) > len(c.Raw) {
				t.Errorf("%q has a body larger than itself", c.Raw)
			}
			for _, d := range c.Doors {
				c.Bytes(d, "a", "/b")
			}
		}
	})
}
