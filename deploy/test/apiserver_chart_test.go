package deploytest

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestAPIServerTakesTheChart: a real API server takes every object of every example,
// knows every field of it, and has nothing to say against one.
//
// Kinds of operators are created where ACTPASS_CRDS names a directory with their
// definitions, and else left out, which the test says.
func TestAPIServerTakesTheChart(t *testing.T) {
	c := apiServer(t)
	for _, name := range []string{"actpass-system", "agents", "more-agents"} {
		c.namespace(t, name, "")
	}
	served := c.definitions(t)
	files, err := filepath.Glob(chart + "/ci/*.yaml")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	streams := map[string][]byte{}
	for _, file := range files {
		streams[filepath.Base(file)] = render(t, file)
	}
	if streams["manifests/actpass.yaml"], err = os.ReadFile("../manifests/actpass.yaml"); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"deployment.out.yaml", "kinds.out.yaml"} {
		b, err := os.ReadFile("../../inject/testdata/" + file)
		if err != nil {
			t.Fatal(err)
		}
		streams["injected "+file] = future.ReplaceAll(b, nil)
	}
	for name, stream := range streams {
		t.Run(name, func(t *testing.T) {
			made, left := 0, []string{}
			for _, doc := range documents(t, stream) {
				_, h := c.path(t, doc)
				if strings.Contains(h.APIVersion, ".coreos.com/") || strings.Contains(h.APIVersion, "cert-manager.io/") {
					if !served[h.Kind] {
						left = append(left, h.Kind+" "+h.Name)
						continue
					}
				}
				if h.Kind == "Namespace" { // they are there, so that the rest has a place
					continue
				}
				a := c.created(t, doc)
				made++
				if len(a.warnings) > 0 {
					t.Errorf("%s %s: %q", h.Kind, h.Name, a.warnings)
				}
			}
			t.Logf("%d objects were created; left out, not served here: %v", made, left)
			if made < 3 {
				t.Errorf("only %d objects", made)
			}
		})
	}
	t.Run("strict", func(t *testing.T) { // a field that is not known is refused, so that the above means something
		doc := "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: x, namespace: agents }\ndate: {}\n"
		if a := c.create(t, doc); a.status != http.StatusBadRequest {
			t.Errorf("%s", a.message())
		}
	})
}

// definitions makes the kinds of operators known, and says which are.
func (c *cluster) definitions(t *testing.T) map[string]bool {
	t.Helper()
	served := map[string]bool{}
	dir := os.Getenv("ACTPASS_CRDS")
	if dir == "" {
		return served
	}
	files, err := filepath.Glob(dir + "/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, doc := range documents(t, b) {
			collection, h := c.path(t, doc)
			if a := c.create(t, doc); a.status != http.StatusCreated {
				t.Fatalf("%s: %s", file, a.message())
			}
			var v struct {
				Spec struct{ Names struct{ Kind string } }
			}
			waitFor(t, h.Name+" is served", func() bool {
				a := c.ask(t, http.MethodGet, collection+"/"+h.Name, "application/json", nil)
				a.into(t, &v)
				return bytes.Contains(a.body, []byte(`"type":"Established"`)) && slices.Contains([]string{"ServiceMonitor", "PrometheusRule", "Issuer", "Certificate"}, v.Spec.Names.Kind)
			})
			served[v.Spec.Names.Kind] = true
		}
	}
	return served
}
