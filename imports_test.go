package sidecar

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/actpass/sidecar"

type goPackage struct {
	ImportPath string
	Standard   bool
	Imports    []string
	Deps       []string
}

func list(t *testing.T) map[string]goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Standard,Imports,Deps", "./...")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	all := make(map[string]goPackage)
	dec := json.NewDecoder(out)
	for {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all[p.ImportPath] = p
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestImportDirection keeps the packages in the order that the design gives
// them: what a package of ours may import of ours, and which of them may know a
// part of the world.
func TestImportDirection(t *testing.T) {
	ours := map[string][]string{
		"":                {},
		"strictyaml":      {},
		"mapping":         {"strictyaml"},
		"mapping/openapi": {"mapping", "strictyaml"},
		"policy":          {"strictyaml"},
		"passport":        {},
		"evidence":        {},
		"ledger":          {"evidence"},
		"gate":            {"mapping", "policy", "passport", "evidence"},
		"notify":          {"gate", "evidence"},
		"store":           {"gate", "evidence", "notify"},
		// It judges by gate's own functions, so that no mode has a second table.
		"whatif":                 {"gate", "policy", "evidence", "mapping", "strictyaml"},
		"proxy":                  {"gate", "mapping", "evidence"},
		"api":                    {"gate", "evidence", "passport", "whatif", "notify", "doctor", "mapping/openapi"},
		"api/web":                {"api", "gate", "evidence", "whatif", "mapping/openapi"},
		"config":                 {"mapping", "policy", "strictyaml"},
		"launch":                 {},
		"cmd/actpass/timerslack": {},
		"doctor":                 {},
		"inject":                 {"launch"},
		"workload":               {},
	}
	free := map[string]bool{ // tests' own, and what wires everything
		"cmd/actpass": true, "e2e": true, "store/storetest": true, "store/pgtest": true, "deploy/image/sbom": true, "notify/slacktest": true, "mapping/corpus": true, "e2e/agent": true, "sdk/vectors": true,
	}
	pkgs := list(t)
	seen := 0
	for path, p := range pkgs {
		if path != module && !strings.HasPrefix(path, module+"/") {
			continue
		}
		seen++
		name := strings.TrimPrefix(strings.TrimPrefix(path, module), "/")
		if free[name] {
			continue
		}
		allowed, known := ours[name]
		if !known {
			t.Errorf("package %s is not in this test's table: say what it may import", name)
			continue
		}
		may := make(map[string]bool)
		for _, a := range allowed {
			may[module+"/"+a] = true
		}
		for _, imp := range p.Imports {
			if strings.HasPrefix(imp, module) && !may[imp] {
				t.Errorf("%s imports %s, against the direction", name, imp)
			}
		}
	}
	if seen < 10 {
		t.Fatalf("only %d packages looked at", seen)
	}
}

// TestOnlyOneKnows names the libraries and parts of the world that one package
// alone may know.
func TestOnlyOneKnows(t *testing.T) {
	only := map[string][]string{
		"github.com/spf13/viper":       {"config"},
		"github.com/elazarl/goproxy":   {"proxy"},
		"modernc.org/sqlite":           {"store"},
		"github.com/jackc/pgx/v5":      {"store", "store/pgtest"},
		"github.com/pressly/goose/v3":  {"store"},
		"github.com/goccy/go-yaml":     {"strictyaml"},
		"go.yaml.in/yaml/v3":           {"mapping/openapi", "inject"}, // documents of others: anchors, megabytes
		"github.com/spf13/cobra":       {"cmd/actpass"},
		"database/sql":                 {"store", "store/storetest"},
		"github.com/fsnotify/fsnotify": {"config"},
		"github.com/google/nftables":   {"cmd/actpass"},
	}
	pure := map[string]bool{"mapping": true, "mapping/openapi": true, "policy": true, "passport": true, "evidence": true, "whatif": true}
	impure := map[string]bool{
		"net/http": true, "net": true, "database/sql": true, "os": true, "go.uber.org/zap": true, "os/exec": true,
	}
	for path, p := range list(t) {
		if !strings.HasPrefix(path, module) {
			continue
		}
		name := strings.TrimPrefix(strings.TrimPrefix(path, module), "/")
		for _, imp := range p.Imports {
			for lib, owners := range only {
				if imp != lib && !strings.HasPrefix(imp, lib+"/") {
					continue
				}
				owned := false
				for _, o := range owners {
					owned = owned || o == name
				}
				if !owned {
					t.Errorf("%s imports %s, which only %v may know", name, imp, owners)
				}
			}
			if pure[name] && impure[imp] {
				t.Errorf("%s imports %s, and must stay pure", name, imp)
			}
			if name == "gate" && (imp == "net/http" || imp == "database/sql") {
				t.Errorf("gate imports %s, and must know neither HTTP nor SQL", imp)
			}
		}
	}
}
