package main

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"refund für 5 €":   "refund für 5 €",
		"a\x1b[2Jb":        `a\x1b[2Jb`,
		"a\r\nb\tc":        `a\r\nb\tc`,
		"\u202egpj.exe":    `\u202egpj.exe`,
		"a\u2028b\u0085c":  `a\u2028b\u0085c`,
		"bad \xff\xc3 utf": `bad \xff\xc3 utf`,
		"\ufffd":           "\ufffd",
		"\u200bhidden":     `\u200bhidden`,
	} {
		if got := plain(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		got := plain(string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")))
		if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Fatalf("%q reaches the terminal", got)
		}
	})
}
