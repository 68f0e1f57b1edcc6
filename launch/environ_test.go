package launch

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestNonProxyHosts(t *testing.T) {
	for entry, want := range map[string]string{
		"localhost":        "localhost|*.localhost",
		".example.com":     "example.com|*.example.com",
		"*.example.com":    "example.com|*.example.com",
		"127.0.0.1":        "127.0.0.1",
		"::1":              "[::1]",
		"[::1]":            "[::1]",
		"*":                "*",
		"10.0.0.0/8":       "10.*",
		"192.168.7.0/24":   "192.168.7.*",
		"192.168.7.9/32":   "192.168.7.9",
		"192.168.0.0/15":   "",
		"0.0.0.0/0":        "",
		"fd00::/8":         "",
		"127.0.0.1:8081":   "",
		"":                 "",
		"example.com:8443": "",
	} {
		if got := strings.Join(nonProxyHosts([]string{entry}), "|"); got != want {
			t.Errorf("%q becomes %q, want %q", entry, got, want)
		}
	}
}

// unquoteNode is Node's own reading of NODE_OPTIONS (ParseNodeOptionsEnvVar in node_options.cc).
func unquoteNode(s string) []string {
	var words []string
	inside, start := false, true
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\' && inside:
			i++
			c = s[i]
		case c == ' ' && !inside:
			start = true
			continue
		case c == '"':
			inside = !inside
			continue
		}
		if start {
			words = append(words, string([]byte{c}))
			start = false
		} else {
			words[len(words)-1] += string([]byte{c})
		}
	}
	return words
}

func TestQuotesForNode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		path := "/" + rapid.StringOf(rapid.RuneFrom([]rune(`ab "\'`+"\t$é"))).Draw(t, "path")
		got := unquoteNode("--require " + quoteNodeOption(path))
		if len(got) != 2 || got[1] != path {
			t.Fatalf("%q is read as %q", path, got)
		}
	})
}

// unquoteJava is the JVM's reading of JAVA_TOOL_OPTIONS (Arguments::parse_options_buffer in arguments.cpp).
func unquoteJava(s string) []string {
	var words []string
	for i := 0; i < len(s); {
		for i < len(s) && strings.IndexByte(" \t\n\v\f\r", s[i]) >= 0 {
			i++
		}
		if i == len(s) {
			break
		}
		var word []byte
		for i < len(s) && strings.IndexByte(" \t\n\v\f\r", s[i]) < 0 {
			if c := s[i]; c == '"' || c == '\'' {
				end := strings.IndexByte(s[i+1:], c)
				if end < 0 {
					return append(words, "unmatched quote")
				}
				word = append(word, s[i+1:i+1+end]...)
				i += end + 2
				continue
			}
			word = append(word, s[i])
			i++
		}
		words = append(words, string(word))
	}
	return words
}

func TestQuotesForJava(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := "-D" + rapid.StringOf(rapid.RuneFrom([]rune(`ab "\'`+"\t$é"))).Draw(t, "word")
		got := unquoteJava("-Da=b " + quoteJavaOption(word))
		if len(got) != 2 || got[1] != word {
			t.Fatalf("%q is read as %q", word, got)
		}
	})
}

func TestWithoutSystemRoots(t *testing.T) {
	r, err := collectRoots(environment{}, []string{"/nonexistent"})
	if err != nil || len(r.bundle) != 0 || len(r.warnings) != 1 || !strings.Contains(r.warnings[0], "no system roots") {
		t.Errorf("collectRoots: %d roots, warnings %q, %v", len(r.bundle), r.warnings, err)
	}
}
