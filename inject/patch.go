package inject

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Op is one operation of a JSON Patch (RFC 6902): add, replace or remove.
type Op struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// diff makes old into new. Lists of named objects to which some were added keep
// their other members, with what we do not know in them; other lists that differ
// in length are replaced.
func diff(old, new any, path string) []Op {
	if reflect.DeepEqual(old, new) {
		return nil
	}
	switch n := new.(type) {
	case object:
		if o, ok := old.(object); ok {
			return diffObject(o, n, path)
		}
	case []any:
		if o, ok := old.([]any); ok {
			if ops, ok := diffList(o, n, path); ok {
				return ops
			}
		}
	}
	return []Op{{"replace", path, new}}
}

func diffObject(old, new object, path string) []Op {
	var ops []Op
	for _, key := range slices.Sorted(maps.Keys(old)) {
		if _, ok := new[key]; !ok {
			ops = append(ops, Op{Op: "remove", Path: path + "/" + escape(key)})
		}
	}
	for _, key := range slices.Sorted(maps.Keys(new)) {
		at := path + "/" + escape(key)
		if o, ok := old[key]; !ok {
			ops = append(ops, Op{"add", at, new[key]})
		} else {
			ops = append(ops, diff(o, new[key], at)...)
		}
	}
	return ops
}

// diffList aligns by name: every old member must come again, in its order.
func diffList(old, new []any, path string) ([]Op, bool) {
	var ops []Op
	next := 0
	for i, v := range new {
		at := path + "/" + strconv.Itoa(i)
		if next < len(old) && (len(old) == len(new) || reflect.DeepEqual(old[next], v) || identity(v) != "" && identity(old[next]) == identity(v)) {
			ops = append(ops, diff(old[next], v, at)...)
			next++
			continue
		}
		ops = append(ops, Op{"add", at, v})
	}
	return ops, next == len(old)
}

// identity of a member of a list of containers, variables, volumes or mounts.
func identity(v any) string {
	o, _ := v.(object)
	name, _ := o["name"].(string)
	if name == "" {
		return ""
	}
	return fmt.Sprint(name, "\x00", o["mountPath"])
}

func escape(key string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(key)
}

func unescape(part string) string {
	return strings.NewReplacer("~1", "/", "~0", "~").Replace(part)
}

// clone copies objects and lists; what is in them is never changed in place.
func clone(v any) any {
	switch v := v.(type) {
	case object:
		out := make(object, len(v))
		for k, e := range v {
			out[k] = clone(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = clone(e)
		}
		return out
	}
	return v
}
