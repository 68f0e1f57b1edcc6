package policy

import (
	"slices"
	"sync"
	"sync/atomic"
)

// maxCached bounds the tool names whose policies are remembered. Past it the
// memory starts afresh, so that an agent that invents tool names costs a lookup,
// never memory.
const maxCached = 4096

// index finds the policies that a tool's name falls under without asking each:
// globs lie under their literal prefix, and only prefixes of the name are looked
// up.
type index struct {
	byPrefix map[string][]indexed
	lengths  []int // of the prefixes, ascending
	cache    atomic.Pointer[toolCache]
}

type indexed struct {
	glob   string // one alternative
	author string // the glob as written
	policy int    // position in file order
}

type toolCache struct {
	entries sync.Map // tool name to []int
	size    atomic.Int64
}

func newIndex(policies []*compiled) *index {
	ix := &index{byPrefix: make(map[string][]indexed)}
	for i, p := range policies {
		for _, g := range p.globs {
			for _, alt := range g.alternatives {
				prefix, _ := literalPrefix(alt)
				ix.byPrefix[prefix] = append(ix.byPrefix[prefix], indexed{glob: alt, author: g.text, policy: i})
			}
		}
	}
	for prefix := range ix.byPrefix {
		if !slices.Contains(ix.lengths, len(prefix)) {
			ix.lengths = append(ix.lengths, len(prefix))
		}
	}
	slices.Sort(ix.lengths)
	ix.cache.Store(new(toolCache))
	return ix
}

// match gives the positions of the policies that cover tool, in file order. The
// slice is shared: it must not be changed.
func (ix *index) match(tool string) []int {
	cache := ix.cache.Load()
	if v, ok := cache.entries.Load(tool); ok {
		return v.([]int)
	}
	found := ix.find(tool)
	if cache.size.Add(1) > maxCached {
		cache = new(toolCache)
		cache.size.Store(1)
		ix.cache.Store(cache)
	}
	cache.entries.Store(tool, found)
	return found
}

func (ix *index) find(tool string) []int {
	var found []int
	for _, n := range ix.lengths {
		if n > len(tool) {
			break
		}
		for _, e := range ix.byPrefix[tool[:n]] {
			if matchGlob(e.glob, tool) {
				found = append(found, e.policy)
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}
