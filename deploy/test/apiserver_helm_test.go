package deploytest

import (
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
)

// TestAPIServerHelm: Helm itself installs each example into a real API server, upgrades
// it and takes it away; an upgrade leaves the webhook's certificate what it was.
func TestAPIServerHelm(t *testing.T) {
	c := apiServer(t)
	for _, name := range []string{"actpass-system", "agents", "more-agents"} {
		c.namespace(t, name, "")
	}
	served := c.definitions(t)
	config := filepath.Join(t.TempDir(), "kubeconfig")
	text := "apiVersion: v1\nkind: Config\nclusters: [{ name: c, cluster: { server: " + c.url + ", insecure-skip-tls-verify: true } }]\n" +
		"users: [{ name: u, user: { token: " + clusterToken + " } }]\ncontexts: [{ name: x, context: { cluster: c, user: u } }]\ncurrent-context: x\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(t *testing.T, args ...string) {
		t.Helper()
		program := os.Getenv("HELM")
		if program == "" {
			program = "helm"
		}
		cmd := exec.Command(program, append(args, "-n", "actpass-system", "--kubeconfig", config)...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			t.Fatalf("helm %v: %v\n%s", args, err, out.String())
		}
	}
	type state struct {
		Secret map[string][]byte
		Bundle []byte
	}
	read := func(t *testing.T) (s state) {
		t.Helper()
		var secret corev1.Secret
		c.ask(t, http.MethodGet, "/api/v1/namespaces/actpass-system/secrets/actpass-webhook-tls", "application/json", nil).into(t, &secret)
		var hook admissionregistrationv1.MutatingWebhookConfiguration
		c.ask(t, http.MethodGet, "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/actpass-webhook", "application/json", nil).into(t, &hook)
		return state{secret.Data, hook.Webhooks[0].ClientConfig.CABundle}
	}
	files, err := filepath.Glob(chart + "/ci/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			name := filepath.Base(file)
			if name == "manifests.yaml" && !served["Certificate"] || (name == "monitored.yaml" || name == "shared.yaml") && !served["ServiceMonitor"] {
				t.Skip("kinds of operators are not served: ACTPASS_CRDS")
			}
			run(t, "install", "actpass", chart, "-f", file)
			generated := name == "default.yaml" || name == "shared.yaml" || name == "monitored.yaml"
			var was state
			if generated {
				was = read(t)
				if len(was.Secret) != 3 || len(was.Bundle) == 0 {
					t.Errorf("%d keys, %d bytes of a bundle", len(was.Secret), len(was.Bundle))
				}
			}
			run(t, "upgrade", "actpass", chart, "-f", file, "--set", "image.tag=next")
			if generated && !reflect.DeepEqual(read(t), was) {
				t.Error("the upgrade made another certificate")
			}
			run(t, "uninstall", "actpass")
		})
	}
}
