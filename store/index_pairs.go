package store

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"github.com/actpass/sidecar/evidence"
)

// A filter of two values that are everywhere, and never together, would read every
// block: an agent that calls every minute, and a decision that only others get. So a
// summary also holds, for each two values that stand in one event, two bits of 1,024:
// a Bloom filter. Most blocks without such an event are passed by.

const (
	pairWords = 16
	pairBits  = 64 * pairWords
	// maxNamed bounds the tools that a glob is written out into.
	maxNamed = 16
)

type pairSet [pairWords]uint64

// paired are the columns of which each two are looked at together.
var paired = [...]int{colTool, colAgent, colDecision, colReason, colState}

// add puts in that a tenant has an event with both values. The hash is kept on disk:
// FNV-1a, spread, whose two halves say which bits.
func (s *pairSet) add(tenant string, col1 int, value1 string, col2 int, value2 string) {
	h := uint64(14695981039346656037)
	mix := func(text string) {
		for i := range len(text) {
			h = (h ^ uint64(text[i])) * 1099511628211
		}
		h = (h ^ 0xff) * 1099511628211 // no UTF-8 text has it
	}
	mix(tenant)
	h = (h ^ uint64(col1<<4|col2)) * 1099511628211
	mix(value1)
	mix(value2)
	// Texts that end alike differ in few bits of it: these three steps (MurmurHash3's
	// last) spread them.
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	h ^= h >> 33
	for _, bit := range [...]uint64{h % pairBits, h >> 32 % pairBits} {
		s[bit/64] |= 1 << (bit % 64)
	}
}

// pairs are those of all events of the block.
func (b *block) pairs() (s pairSet) {
	type combination [numMasked]uint16
	seen := make(map[combination]bool)
	for i := range b.rows {
		var c combination
		copy(c[:], b.rows[i].cols[:numMasked])
		if seen[c] {
			continue
		}
		seen[c] = true
		for j, col1 := range paired {
			for _, col2 := range paired[j+1:] {
				s.add(b.words[c[colTenant]], col1, b.words[c[col1]], col2, b.words[c[col2]])
			}
		}
	}
	return s
}

// where are the conditions that every block meets which holds all of these pairs.
func (s *pairSet) where() (terms []string, args []any) {
	for i, mask := range s {
		if mask != 0 {
			terms = append(terms, fmt.Sprintf("(b.p%d & ?) = ?", i))
			args = append(args, int64(mask), int64(mask))
		}
	}
	return terms, args
}

// pairsOf is the condition under which a block may hold an event that meets all of
// the exact tests; "" where they say nothing together. A glob over tools is taken
// for each tool of the tenant that it fits, as the rollups know them: of actions.
func (q *Query) pairsOf(ctx context.Context, db *sql.DB, tests []test) (string, []any, error) {
	var base pairSet
	for j, col1 := range paired {
		for _, col2 := range paired[j+1:] {
			if a, b := exactly(tests, col1), exactly(tests, col2); a != nil && b != nil {
				base.add(q.Tenant, col1, *a, col2, *b)
			}
		}
	}
	terms, args := base.where()
	named, err := q.toolsNamed(ctx, db)
	if err != nil || named == nil {
		return strings.Join(terms, " AND "), args, err
	}
	// Events that are no actions are not counted: a block that has some is read.
	either := []string{"(b.kinds & ?) <> 0"}
	args = append(args, int64(^maskBit(evidence.KindAction)))
	for _, tool := range named {
		var with pairSet
		for _, col := range paired[1:] {
			if v := exactly(tests, col); v != nil {
				with.add(q.Tenant, colTool, tool, col, *v)
			}
		}
		all, more := with.where()
		either, args = append(either, "("+strings.Join(all, " AND ")+")"), append(args, more...)
	}
	return strings.Join(append(terms, "("+strings.Join(either, " OR ")+")"), " AND "), args, nil
}

// exactly is the value that the column must have; nil for any.
func exactly(tests []test, col int) *string {
	if i := slices.IndexFunc(tests, func(t test) bool { return t.col == col && t.value != nil }); i >= 0 {
		return tests[i].value
	}
	return nil
}

// toolsNamed writes out a glob over tools that stands with another filter; nil where
// it does not, fits too many, or the rollups do not know all.
func (q *Query) toolsNamed(ctx context.Context, db *sql.DB) ([]string, error) {
	if !strings.ContainsAny(q.Tool, "*?[") || q.Agent == "" && q.Decision == "" && q.State == "" && q.Reason == "" {
		return nil, nil
	}
	rows, err := db.QueryContext(ctx, `SELECT DISTINCT tool FROM dims WHERE tenant = ?`, q.Tenant)
	if err != nil {
		return nil, err
	}
	fits := globber(q.Tool)
	named, all := []string{}, true
	err = eachRow(rows, func(s scanner) error {
		var tool string
		if err := s.Scan(&tool); err != nil {
			return err
		}
		all = all && tool != otherName
		if fits(tool) {
			named = append(named, tool)
		}
		return nil
	})
	if err != nil || !all || len(named) > maxNamed {
		return nil, err
	}
	return named, nil
}
