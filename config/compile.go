package config

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/policy"
	"github.com/actpass/sidecar/strictyaml"
)

// Compiled is what the settings' files say, ready to judge.
type Compiled struct {
	Mapping *mapping.Set
	Policy  *policy.Set
	// Files are the rule and policy files that were read, for the watcher.
	Files []string
}

// Compile reads and compiles the mapping and policy files. embedded serves the
// policy files where the settings themselves are the embedded ones. The error
// is strictyaml.Faults: everything wrong in any file.
func (c *Config) Compile(embedded fs.FS) (*Compiled, error) {
	var faults strictyaml.Faults
	var out Compiled
	var rules []mapping.Source
	for _, f := range c.collect("mapping.files", c.Mapping.Files, nil, &faults) {
		rules = append(rules, mapping.Source{Name: f.name, Data: f.data})
		out.Files = append(out.Files, f.name)
	}
	var descriptors []mapping.Source
	for _, f := range c.collect("mapping.descriptors", c.Mapping.Descriptors, nil, &faults) {
		descriptors = append(descriptors, mapping.Source{Name: f.name, Data: f.data})
		out.Files = append(out.Files, f.name)
	}
	for _, name := range c.Mapping.Packs {
		src, err := mapping.Pack(name)
		if err != nil {
			continue // reported with the settings
		}
		rules = append(rules, src)
	}
	unmapped := "generic"
	if c.Mapping.Unmapped == "deny" {
		unmapped = "deny"
	}
	set, err := mapping.Compile(rules, mapping.Options{Unmapped: unmapped, Descriptors: descriptors})
	faults.Add(strictyaml.Pos{File: c.File}, err)

	if err != nil {
		set = nil
	}
	opt := c.PolicyOptions(set)
	if c.File != "" {
		embedded = nil
	}
	var policies []policy.Source
	for _, f := range c.collect("policy.files", c.Policy.Files, embedded, &faults) {
		policies = append(policies, policy.Source{Name: f.name, Data: f.data})
		out.Files = append(out.Files, f.name)
	}
	pol, err := policy.Compile(policies, opt)
	faults.Add(strictyaml.Pos{File: c.File}, err)
	if err := faults.Err(); err != nil {
		return nil, err
	}
	out.Mapping, out.Policy = set, pol
	return &out, nil
}

// PolicyOptions are those that the settings' policies are compiled with, over the
// tools that set names; nil: over tools that are not known.
func (c *Config) PolicyOptions(set *mapping.Set) policy.Options {
	opt := policy.Options{Default: c.Policy.Default}
	if c.Policy.Default != "require_approval" && c.Policy.Default != "allow" {
		opt.Default = "deny" // anything else is reported with the settings
	}
	if set != nil {
		opt.Tools = set.Tools()
		opt.Args = func(tool string) (names []string, open, known bool) {
			info, ok := set.Tool(tool)
			for _, a := range info.Args {
				names = append(names, a.Name)
			}
			return names, info.OpenArgs, ok
		}
		opt.Spelling = set.Spelling
	}
	return opt
}

type file struct {
	name string
	data []byte
}

// collect reads the files that a list of globs names, each once, in the order
// of the list and sorted within a glob. A glob that names nothing is a fault:
// the policy that an operator believes in would not be there.
func (c *Config) collect(key string, globs []string, embedded fs.FS, faults *strictyaml.Faults) []file {
	var out []file
	var seen []string
	for i, g := range globs {
		at, ok := c.places[fmt.Sprintf("%s[%d]", key, i)]
		if !ok {
			at = c.places[key]
		}
		names, err := expand(c, g, embedded)
		if err != nil {
			faults.Addf(at, "`%s`: %q is not a usable pattern: %v", key, g, err)
			continue
		}
		if len(names) == 0 {
			faults.Addf(at, "`%s`: %s matches no file", key, g)
		}
		for _, name := range names {
			if slices.Contains(seen, name) {
				continue
			}
			seen = append(seen, name)
			data, err := read(name, embedded)
			if err != nil {
				faults.Addf(at, "`%s`: %v", key, err)
				continue
			}
			out = append(out, file{name, data})
		}
	}
	return out
}

func expand(c *Config, glob string, embedded fs.FS) ([]string, error) {
	var names []string
	var err error
	if embedded != nil {
		names, err = doublestar.Glob(embedded, filepath.ToSlash(filepath.Clean(glob)), doublestar.WithFilesOnly())
	} else {
		names, err = doublestar.FilepathGlob(c.Path(glob), doublestar.WithFilesOnly())
	}
	sort.Strings(names)
	return names, err
}

func read(name string, embedded fs.FS) ([]byte, error) {
	if embedded != nil {
		return fs.ReadFile(embedded, name)
	}
	return os.ReadFile(name)
}
