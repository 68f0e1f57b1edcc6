package sidecar

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// permissive are the licences that a part may be under, by a sentence that
// stands in each and in no other.
var permissive = []struct {
	name string // SPDX
	text string // white space folded, lower case
}{
	{"MIT", "permission is hereby granted, free of charge, to any person obtaining a copy of this software"},
	{"Apache-2.0", "apache license version 2.0, january 2004"},
	{"BSD", "redistribution and use in source and binary forms, with or without modification, are permitted"},
	{"ISC", "permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted"},
	{"ISC", "permission to use, copy, modify, and distribute this software for any purpose with or without fee is hereby granted"},
	{"MPL-2.0", "mozilla public license version 2.0"},
	{"MPL-2.0", "mozilla public license, version 2.0"},
}

// strings that make a text another licence, whatever else stands in it.
var restrictive = []string{
	"gnu general public license", "gnu lesser general public license", "gnu affero", "server side public license", "business source license",
	"commons clause", "elastic license", "creative commons", "for non-commercial", "noncommercial", "all rights reserved. no part",
}

// licence names what a licence text is, "" where it is none of the permitted.
func licence(text string) string {
	text = strings.Join(strings.Fields(strings.ToLower(strings.ReplaceAll(text, "//", ""))), " ")
	found := ""
	for _, p := range permissive {
		if strings.Contains(text, p.text) {
			found = p.name
			break
		}
	}
	for _, word := range restrictive {
		// MPL-2.0 names the GNU licences as ones that it may be combined with.
		if strings.Contains(text, word) && found != "MPL-2.0" {
			return ""
		}
	}
	return found
}

var licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|unlicense)([-._].*)?$`)

// licences classifies the licence files of a folder: name of the file, licence.
func licences(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, e := range entries {
		if e.IsDir() || !licenceFile.MatchString(e.Name()) || strings.HasSuffix(e.Name(), ".go") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		found[e.Name()] = licence(string(text))
	}
	return found
}

type usedModule struct{ Path, Version, Dir string }

// used lists the modules that the program, its tests, or those of a module
// beside it are built from, each with the folders of the packages taken.
func used(t *testing.T, dir string) map[usedModule][]string {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-test", "-json=Dir,Module", "./...")
	cmd.Dir = dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	all := map[usedModule][]string{}
	dec := json.NewDecoder(out)
	for {
		var p struct {
			Dir    string
			Module *struct {
				usedModule
				Main    bool
				Replace *usedModule
			}
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if p.Module == nil || p.Module.Main || strings.HasPrefix(p.Module.Path, module) {
			continue
		}
		m := p.Module.usedModule
		if p.Module.Replace != nil {
			m.Dir = p.Module.Replace.Dir
		}
		if !slices.Contains(all[m], p.Dir) {
			all[m] = append(all[m], p.Dir)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("go list in %s: %v %s", dir, err, &stderr)
	}
	return all
}

// TestModuleLicences reads the licence of every module that the program, its
// tests and the modules beside it are really built from, and those that stand
// nearer to the packages used: a folder may be under other terms than its module.
func TestModuleLicences(t *testing.T) {
	// Looked at one by one.
	known := []string{
		"modernc.org/sqlite LICENSE-SQLITE",       // C that was transpiled: in the public domain
		"modernc.org/sqlite LICENSE-3RD-PARTY.md", // a list of its modules, which are looked at here, and of its own tests' data
		"modernc.org/memory LICENSE-LOGO",         // where a picture of its web page is from
	}
	counts := map[string]int{}
	seen := map[usedModule]bool{}
	for _, dir := range []string{".", "bench", "deploy/test"} {
		for m, folders := range used(t, dir) {
			if seen[m] && dir != "." {
				continue
			}
			seen[m] = true
			top := licences(t, m.Dir)
			if len(top) == 0 {
				t.Errorf("%s %s has no licence file", m.Path, m.Version)
			}
			for _, name := range top {
				if name != "" {
					counts[name]++
				}
			}
			look := map[string]bool{m.Dir: true}
			for _, folder := range folders {
				for ; strings.HasPrefix(folder, m.Dir+string(filepath.Separator)); folder = filepath.Dir(folder) {
					look[folder] = true
				}
			}
			for folder := range look {
				for file, name := range licences(t, folder) {
					if name == "" && !slices.Contains(known, m.Path+" "+file) {
						t.Errorf("%s %s: %s is not MIT, BSD, ISC, Apache-2.0 or MPL-2.0", m.Path, m.Version, filepath.Join(folder, file))
					}
				}
			}
		}
	}
	for _, name := range []string{
		"github.com/johannesboyne/gofakes3", "github.com/aws/aws-sdk-go-v2", "google.golang.org/grpc", "github.com/elazarl/goproxy", "modernc.org/sqlite",
	} {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(seen)), func(m usedModule) bool { return m.Path == name }) {
			t.Errorf("%s was not looked at", name)
		}
	}
	t.Logf("%d modules: %v", len(seen), counts)
}

// TestLicenceTexts holds the classifier to texts that must not pass.
func TestLicenceTexts(t *testing.T) {
	for text, want := range map[string]string{
		"Permission is hereby granted, free of charge, to any person obtaining\n a copy of this software": "MIT",
		"GNU GENERAL PUBLIC LICENSE\nVersion 3, 29 June 2007":                                             "",
		"Apache License\n Version 2.0, January 2004\n\n\"Commons Clause\" License Condition v1.0":         "",
		"Business Source License 1.1":                     "",
		"Server Side Public License\nVERSION 1":           "",
		"Attribution 4.0 International\nCreative Commons": "",
		"": "",
		"Mozilla Public License Version 2.0\n ... GNU General Public License": "MPL-2.0",
	} {
		if got := licence(text); got != want {
			t.Errorf("%.50q is %q, want %q", text, got, want)
		}
	}
}

// TestOwnLicence: one licence, whole, wherever one is named.
func TestOwnLicence(t *testing.T) {
	const own = "Apache-2.0"
	read := func(file string) string {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	text := read("LICENSE")
	// The text as the Apache Software Foundation gives it out.
	if sum := fmt.Sprintf("%x", sha256.Sum256([]byte(text))); sum != "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30" || licence(text) != own {
		t.Errorf("LICENSE is not the text of %s (SHA-256 %s)", own, sum)
	}
	for _, file := range []string{"sdk/typescript/LICENSE", "sdk/python/LICENSE"} {
		if read(file) != text {
			t.Errorf("%s is not LICENSE", file)
		}
	}
	for file, pattern := range map[string]string{
		"README.md":                        `(?m)^([\w.-]+): see \[LICENSE\]\(LICENSE\)`,
		"sdk/typescript/package.json":      `"license": "([^"]*)"`,
		"sdk/typescript/package-lock.json": `"license": "([^"]*)"`, // the first is the package's own
		"sdk/python/pyproject.toml":        `(?m)^license = "([^"]*)"`,
		"Dockerfile":                       `org\.opencontainers\.image\.licenses="([^"]*)"`,
		"deploy/image/build.sh":            `org\.opencontainers\.image\.licenses=(\S*)`,
		"deploy/image/sbom/main.go":        `own\.License\.ID = "([^"]*)"`,
		"deploy/helm/actpass/Chart.yaml":   `artifacthub\.io/license: (\S*)`,
		"api/openapi.yaml":                 `license: \{ name: \S+, identifier: (\S+) \}`,
	} {
		if found := regexp.MustCompile(pattern).FindStringSubmatch(read(file)); found == nil || found[1] != own {
			t.Errorf("%s names the licence %q, want %s", file, found, own)
		}
	}
}

// npmLicences are the terms that a package of the lock files may be under.
var npmLicences = []string{"MIT", "ISC", "Apache-2.0", "MPL-2.0", "BSD-2-Clause", "BSD-3-Clause", "0BSD"}

// TestNPMLicences looks at what Node's tests and the SDK are built with, with all
// that it draws in: npm writes the license of each package.json into the lock.
// Nothing of it is shipped.
func TestNPMLicences(t *testing.T) {
	// Looked at one by one.
	known := map[string]string{
		"node_modules/jszip": "(MIT OR GPL-3.0-or-later)", // taken under MIT
		"node_modules/pako":  "(MIT AND Zlib)",            // its port of zlib is under zlib's own terms, which ask less than MIT
		// Taken under BSD.
		"node_modules/json-schema": "(AFL-2.1 OR BSD-3-Clause)",
		// Its package has no such file; its README says MIT.
		"node_modules/@modelcontextprotocol/server-everything": "SEE LICENSE IN LICENSE",
	}
	for _, dir := range []string{"sdk/typescript", "e2e/node", "e2e/web"} {
		var manifest struct{ Dependencies, DevDependencies map[string]string }
		var lock struct {
			Packages map[string]struct{ License string }
		}
		for file, into := range map[string]any{"package.json": &manifest, "package-lock.json": &lock} {
			b, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(b, into); err != nil {
				t.Fatalf("%s/%s: %v", dir, file, err)
			}
		}
		for _, direct := range []map[string]string{manifest.Dependencies, manifest.DevDependencies} {
			for name := range direct {
				if _, locked := lock.Packages["node_modules/"+name]; !locked {
					t.Errorf("%s: %s is not in package-lock.json", dir, name)
				}
			}
		}
		if dir == "sdk/typescript" && len(manifest.Dependencies) > 0 {
			t.Errorf("the SDK has dependencies: %v", manifest.Dependencies)
		}
		for path, p := range lock.Packages {
			if path != "" && !slices.Contains(npmLicences, p.License) && (p.License == "" || known[path] != p.License) {
				t.Errorf("%s: %s is under %q", dir, path, p.License)
			}
		}
		if len(lock.Packages) < 2 {
			t.Errorf("%s: only %d packages were looked at", dir, len(lock.Packages))
		}
	}
}
