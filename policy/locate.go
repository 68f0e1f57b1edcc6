package policy

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/actpass/sidecar/strictyaml"
)

// text is a policy file whose lines can be found.
type text struct {
	data  string
	lines []int // offset of each line
}

func newText(data []byte) *text {
	t := &text{data: string(data), lines: []int{0}}
	for i := range t.data {
		if t.data[i] == '\n' {
			t.lines = append(t.lines, i+1)
		}
	}
	return t
}

// locate finds where a character of a YAML scalar stands in its file. start is
// where the scalar begins (its quote, its | or >, or its first character), line
// and col are a place in the decoded value as CEL counts: lines from 1, columns
// in characters from 0.
//
// YAML folds lines, strips indentation and unescapes, so the value and the file
// are walked side by side over the characters that are not white space. Where
// they part, the scalar's own place is given.
func (t *text) locate(start strictyaml.Pos, value string, line, col int) strictyaml.Pos {
	target := 0
	for l := 1; l < line; l++ {
		nl := strings.IndexByte(value[target:], '\n')
		if nl < 0 {
			return start
		}
		target += nl + 1
	}
	for ; col > 0 && target < len(value); col-- {
		_, n := utf8.DecodeRuneInString(value[target:])
		target += n
	}
	if start.Line < 1 || start.Line > len(t.lines) {
		return start
	}

	src := cursor{text: t.data, at: t.lines[start.Line-1], line: start.Line, col: 1}
	for src.col < start.Col {
		if !src.next() {
			return start
		}
	}
	quote := src.peek()
	switch quote {
	case '|', '>':
		for src.line == start.Line {
			if !src.next() {
				return start
			}
		}
	case '"', '\'':
		src.next()
	}
	for at, r := range value {
		if unicode.IsSpace(r) {
			if at >= target {
				break
			}
			continue
		}
		src.skipSpace()
		if escape := src.peek(); escape != r && quote == '"' && escape == '\\' {
			src.next()
		}
		if src.peek() != r {
			return start
		}
		if at >= target {
			break
		}
		src.next()
		if r == '\'' && quote == '\'' {
			src.next() // it is written twice
		}
	}
	return strictyaml.Pos{File: start.File, Line: src.line, Col: src.col}
}

// cursor walks a text and counts lines and columns (in characters, from 1).
type cursor struct {
	text      string
	at        int
	line, col int
}

func (c *cursor) peek() rune {
	if c.at >= len(c.text) {
		return -1
	}
	r, _ := utf8.DecodeRuneInString(c.text[c.at:])
	return r
}

func (c *cursor) next() bool {
	if c.at >= len(c.text) {
		return false
	}
	r, n := utf8.DecodeRuneInString(c.text[c.at:])
	c.at += n
	if r == '\n' {
		c.line++
		c.col = 1
	} else {
		c.col++
	}
	return true
}

func (c *cursor) skipSpace() {
	for unicode.IsSpace(c.peek()) {
		c.next()
	}
}
