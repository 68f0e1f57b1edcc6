package policy

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Bounds of one tool glob, so that a file cannot make loading or matching dear.
const (
	maxGlob         = 256 // bytes
	maxAlternatives = 64  // after braces are written out
	maxStars        = 8   // in one alternative
)

// expandGlob checks a tool glob and writes its braces out. The alternatives
// know only `*` (any run of characters, dots and slashes too, also none) and `?`
// (exactly one character).
func expandGlob(glob string) ([]string, error) {
	if glob == "" {
		return nil, errors.New("an empty tool glob matches nothing: write a tool name, or * for all")
	}
	if len(glob) > maxGlob {
		return nil, fmt.Errorf("a tool glob of %d bytes; at most %d", len(glob), maxGlob)
	}
	if !utf8.ValidString(glob) {
		return nil, errors.New("the tool glob is not valid UTF-8")
	}
	if i := strings.IndexFunc(glob, func(r rune) bool {
		return r <= ' ' || r == 0x7f || strings.ContainsRune(`\[]!`, r)
	}); i >= 0 {
		return nil, fmt.Errorf("%q is not used in tool globs: there are *, ? and {a,b}", glob[i:i+1])
	}
	done := []string{""}
	for rest := glob; rest != ""; {
		open := strings.IndexAny(rest, "{}")
		if open < 0 {
			done = product(done, []string{rest})
			break
		}
		if rest[open] == '}' {
			return nil, fmt.Errorf("the tool glob %q closes a brace that is not open", glob)
		}
		end := strings.IndexAny(rest[open+1:], "{}")
		if end < 0 || rest[open+1+end] == '{' {
			return nil, fmt.Errorf("the tool glob %q leaves a brace open, or nests braces: write {a,b}", glob)
		}
		options := strings.Split(rest[open+1:open+1+end], ",")
		if len(done)*len(options) > maxAlternatives {
			return nil, fmt.Errorf("the braces of the tool glob %q stand for more than %d globs: write a list instead", glob, maxAlternatives)
		}
		done = product(product(done, []string{rest[:open]}), options)
		rest = rest[open+1+end+1:]
	}
	for _, g := range done {
		if g == "" {
			return nil, fmt.Errorf("the tool glob %q has an empty alternative, which matches nothing", glob)
		}
		if strings.Count(g, "*") > maxStars {
			return nil, fmt.Errorf("the tool glob %q has more than %d stars", glob, maxStars)
		}
	}
	return done, nil
}

func product(heads, tails []string) []string {
	out := make([]string, 0, len(heads)*len(tails))
	for _, h := range heads {
		for _, t := range tails {
			out = append(out, h+t)
		}
	}
	return out
}

// matchGlob matches one alternative. It goes back only to the last star, so it
// costs at most len(glob) times len(name).
func matchGlob(glob, name string) bool {
	star, resume := -1, 0
	g, n := 0, 0
	for n < len(name) {
		if g < len(glob) {
			switch glob[g] {
			case '*':
				star, resume = g, n
				g++
				continue
			case '?':
				_, size := utf8.DecodeRuneInString(name[n:])
				g++
				n += size
				continue
			case name[n]:
				g++
				n++
				continue
			}
		}
		if star < 0 {
			return false
		}
		resume++
		g, n = star+1, resume
	}
	for g < len(glob) && glob[g] == '*' {
		g++
	}
	return g == len(glob)
}

// literalPrefix is the part of a glob before its first wildcard; whole says that
// there is none.
func literalPrefix(glob string) (prefix string, whole bool) {
	if i := strings.IndexAny(glob, "*?"); i >= 0 {
		return glob[:i], false
	}
	return glob, true
}
