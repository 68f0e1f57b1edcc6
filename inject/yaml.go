package inject

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// templates are the kinds that hold pods, and where.
var templates = map[string][]string{
	"Pod":                   {},
	"Deployment":            {"spec", "template"},
	"ReplicaSet":            {"spec", "template"},
	"ReplicationController": {"spec", "template"},
	"StatefulSet":           {"spec", "template"},
	"DaemonSet":             {"spec", "template"},
	"Job":                   {"spec", "template"},
	"CronJob":               {"spec", "jobTemplate", "spec", "template"},
}

// Manifests injects into the pods of a stream of YAML or JSON documents whose
// label asks for it, or that of their Namespace, where it is in the same stream.
// Every other document is given back byte for byte; of those that change, what
// changes is new, and comments and order stay. Faults name the document.
func Manifests(in []byte, o Options) (out []byte, warnings []string, err error) {
	if err := o.Check(); err != nil {
		return nil, nil, err
	}
	docs := split(in)
	roots := make([]*yaml.Node, len(docs))
	namespaces := map[string]bool{}
	for i, d := range docs {
		if roots[i], err = parse(d); err != nil {
			return nil, nil, fmt.Errorf("document %d: %w", i+1, err)
		}
		for _, n := range resources(roots[i]) {
			if text(n, "kind") == "Namespace" && text(n, "metadata", "labels", Label) == enabled {
				namespaces[text(n, "metadata", "name")] = true
			}
		}
	}
	for i, d := range docs {
		changed := false
		wanted := func(n *yaml.Node) bool { return asks(n, namespaces[text(n, "metadata", "namespace")]) }
		if slices.ContainsFunc(resources(roots[i]), wanted) {
			// An alias is another place's text: what changes here must not change there.
			if err := unalias(roots[i], new(int)); err != nil {
				return nil, nil, fmt.Errorf("document %d: %w", i+1, err)
			}
		}
		for _, n := range resources(roots[i]) {
			if !wanted(n) {
				continue
			}
			did, warned, err := manifest(n, o)
			name := text(n, "kind") + " " + text(n, "metadata", "name")
			if err != nil {
				return nil, nil, fmt.Errorf("document %d, %s: %w", i+1, name, err)
			}
			for _, w := range warned {
				warnings = append(warnings, name+": "+w)
			}
			changed = changed || did
		}
		if !changed {
			out = append(out, d...)
			continue
		}
		b, err := encode(roots[i])
		if err != nil {
			return nil, nil, fmt.Errorf("document %d: %w", i+1, err)
		}
		if i > 0 || bytes.HasPrefix(d, []byte("---")) {
			out = append(out, "---\n"...)
		}
		out = append(out, b...)
	}
	return out, warnings, nil
}

// split cuts before each line that begins a document. Joined, the pieces are the
// input.
func split(in []byte) [][]byte {
	var docs [][]byte
	start, pos := 0, 0
	for line := range bytes.Lines(in) {
		rest, marker := bytes.CutPrefix(line, []byte("---"))
		if marker && (len(rest) == 0 || strings.ContainsRune(" \t\r\n", rune(rest[0]))) && pos > start {
			docs = append(docs, in[start:pos])
			start = pos
		}
		pos += len(line)
	}
	return append(docs, in[start:])
}

// parse reads one document; nil is an empty one.
func parse(doc []byte) (*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(doc))
	var root, second yaml.Node
	switch err := dec.Decode(&root); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, err
	}
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, errors.New("another document follows without a line `---`")
	}
	return &root, nil
}

func encode(root *yaml.Node) ([]byte, error) {
	var b bytes.Buffer
	if root.Content[0].Style&yaml.FlowStyle != 0 && jsonDocument(root.Content[0]) {
		v, err := plain(root.Content[0])
		if err != nil {
			return nil, err
		}
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		err = enc.Encode(v)
		return b.Bytes(), err
	}
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	enc.CompactSeqIndent()
	if err := enc.Encode(root); err != nil {
		return nil, err
	}
	err := enc.Close()
	return b.Bytes(), err
}

// jsonDocument says that a document in flow style is JSON rather than YAML: its
// keys are in double quotes.
func jsonDocument(n *yaml.Node) bool {
	return n.Kind == yaml.MappingNode && len(n.Content) > 0 && n.Content[0].Style&yaml.DoubleQuotedStyle != 0
}

// resources are the objects of a document: itself, or the items of a List.
func resources(root *yaml.Node) []*yaml.Node {
	if root == nil || len(root.Content) == 0 || root.Content[0].Kind != yaml.MappingNode {
		return nil
	}
	n := root.Content[0]
	if text(n, "kind") == "List" {
		if list := get(n, "items"); list != nil && list.Kind == yaml.SequenceNode {
			return list.Content
		}
	}
	return []*yaml.Node{n}
}

// podOf is the object of a resource that has a pod's metadata and spec, or nil.
func podOf(n *yaml.Node) *yaml.Node {
	path, known := templates[text(n, "kind")]
	if !known {
		return nil
	}
	for _, key := range path {
		if n = get(n, key); n == nil {
			return nil
		}
	}
	return n
}

func asks(n *yaml.Node, namespace bool) bool {
	pod := podOf(n)
	return pod != nil && Wanted(object{Label: text(pod, "metadata", "labels", Label)}, namespace)
}

// manifest injects into one resource, in place; it has no aliases any more.
func manifest(n *yaml.Node, o Options) (changed bool, warnings []string, err error) {
	pod := podOf(n)
	v, err := plain(pod)
	if err != nil {
		return false, nil, err
	}
	old, ok := v.(object)
	if !ok {
		return false, nil, errors.New("the pod is not an object")
	}
	now := clone(old).(object)
	if warnings, err = Pod(now, o); err != nil {
		return false, nil, err
	}
	ops := diff(old, now, "")
	for _, op := range ops {
		if err := apply(pod, op); err != nil {
			return false, nil, err
		}
	}
	return len(ops) > 0, warnings, nil
}

// get is the value of a key, through aliases and merges.
func get(n *yaml.Node, key string) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Tag != "!!merge" {
			continue
		}
		from := []*yaml.Node{n.Content[i+1]}
		if from[0].Kind == yaml.SequenceNode {
			from = from[0].Content
		}
		for _, m := range from {
			if v := get(m, key); v != nil {
				return v
			}
		}
	}
	return nil
}

func text(n *yaml.Node, path ...string) string {
	for _, key := range path {
		if n = get(n, key); n == nil {
			return ""
		}
	}
	return n.Value
}

// most bounds what aliases may unfold to.
const most = 200_000

// unalias writes out every alias and merge key below n.
func unalias(n *yaml.Node, count *int) error {
	if *count++; *count > most {
		return errors.New("its aliases unfold to too much")
	}
	n.Anchor = ""
	for i, c := range n.Content {
		if c.Kind == yaml.AliasNode {
			n.Content[i] = copied(c.Alias)
		}
		if err := unalias(n.Content[i], count); err != nil {
			return err
		}
	}
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i < len(n.Content); i += 2 {
		if n.Content[i].Tag != "!!merge" {
			continue
		}
		from := []*yaml.Node{n.Content[i+1]}
		if from[0].Kind == yaml.SequenceNode {
			from = from[0].Content
		}
		n.Content = slices.Delete(n.Content, i, i+2)
		for _, m := range from { // the earlier one wins, and what is written out beats both
			for j := 0; j+1 < len(m.Content); j += 2 {
				if get(n, m.Content[j].Value) == nil {
					n.Content = append(n.Content, copied(m.Content[j]), copied(m.Content[j+1]))
				}
			}
		}
		i -= 2
	}
	return nil
}

func copied(n *yaml.Node) *yaml.Node {
	c := *n
	c.Content = make([]*yaml.Node, len(n.Content))
	for i := range n.Content {
		c.Content[i] = n.Content[i]
		if n.Content[i].Kind != yaml.AliasNode {
			c.Content[i] = copied(n.Content[i])
		}
	}
	return &c
}

// plain is a node without aliases as JSON would hold it. Numbers keep their text.
func plain(n *yaml.Node) (any, error) {
	switch n.Kind {
	case yaml.MappingNode:
		out := make(object, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i].Value
			if _, twice := out[key]; twice {
				return nil, fmt.Errorf("line %d: %q stands there twice", n.Content[i].Line, key)
			}
			v, err := plain(n.Content[i+1])
			if err != nil {
				return nil, err
			}
			out[key] = v
		}
		return out, nil
	case yaml.SequenceNode:
		out := make([]any, len(n.Content))
		for i, c := range n.Content {
			v, err := plain(c)
			if err != nil {
				return nil, err
			}
			out[i] = v
		}
		return out, nil
	}
	switch n.ShortTag() {
	case "!!null":
		return nil, nil
	case "!!bool":
		b, err := strconv.ParseBool(n.Value)
		if err != nil {
			return nil, fmt.Errorf("line %d: %q is no boolean", n.Line, n.Value)
		}
		return b, nil
	case "!!int", "!!float":
		return json.Number(n.Value), nil
	}
	return n.Value, nil
}

// node is the opposite of plain, in block style.
func node(v any) (*yaml.Node, error) {
	n := new(yaml.Node)
	if num, ok := v.(json.Number); ok {
		n.Kind, n.Tag, n.Value = yaml.ScalarNode, "!!int", num.String()
		if strings.ContainsAny(n.Value, ".eE") {
			n.Tag = "!!float"
		}
		return n, nil
	}
	switch v := v.(type) {
	case object:
		n.Kind, n.Tag = yaml.MappingNode, "!!map"
		for _, key := range order(v) {
			c, err := node(v[key])
			if err != nil {
				return nil, err
			}
			k := new(yaml.Node)
			k.SetString(key)
			n.Content = append(n.Content, k, c)
		}
		if len(v) == 0 {
			n.Style = yaml.FlowStyle
		}
		return n, nil
	case []any:
		n.Kind, n.Tag = yaml.SequenceNode, "!!seq"
		for _, e := range v {
			c, err := node(e)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, c)
		}
		return n, nil
	}
	err := n.Encode(v)
	return n, err
}

// order has name first, as people write it, and the rest sorted.
func order(o object) []string {
	keys := make([]string, 0, len(o))
	for k := range o {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b string) int {
		if (a == "name") != (b == "name") {
			if a == "name" {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	return keys
}

// apply does one operation of a patch on a document without aliases.
func apply(root *yaml.Node, op Op) error {
	parts := strings.Split(strings.TrimPrefix(op.Path, "/"), "/")
	at := root
	for _, part := range parts[:len(parts)-1] {
		next := get(at, unescape(part))
		if at.Kind == yaml.SequenceNode {
			if i, err := strconv.Atoi(part); err == nil && i < len(at.Content) {
				next = at.Content[i]
			}
		}
		if next == nil {
			return fmt.Errorf("patch %s: there is no %s", op.Path, part)
		}
		at = next
	}
	last := unescape(parts[len(parts)-1])
	var value *yaml.Node
	if op.Op != "remove" {
		var err error
		if value, err = node(op.Value); err != nil {
			return fmt.Errorf("patch %s: %w", op.Path, err)
		}
	}
	at.Style &^= yaml.FlowStyle
	if at.Kind == yaml.SequenceNode {
		i, err := strconv.Atoi(last)
		switch {
		case err != nil || i > len(at.Content) || op.Op != "add" && i == len(at.Content):
			return fmt.Errorf("patch %s: there is no such member", op.Path)
		case op.Op == "add":
			at.Content = slices.Insert(at.Content, i, value)
		case op.Op == "replace":
			at.Content[i] = value
		default:
			at.Content = slices.Delete(at.Content, i, i+1)
		}
		return nil
	}
	for i := 0; i+1 < len(at.Content); i += 2 {
		if at.Content[i].Value == last {
			if op.Op == "remove" {
				at.Content = slices.Delete(at.Content, i, i+2)
			} else {
				at.Content[i+1] = value
			}
			return nil
		}
	}
	if value == nil {
		return fmt.Errorf("patch %s: there is nothing to remove", op.Path)
	}
	key := new(yaml.Node)
	key.SetString(last)
	at.Content = append(at.Content, key, value)
	return nil
}
