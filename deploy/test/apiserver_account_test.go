package deploytest

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const clusterIssuer = "https://kubernetes.default.svc.cluster.local"

// TestAPIServerKnowsTheAccount: an injected sidecar's variables and volumes, as the API
// server took them, filled as the kubelet fills them, with tokens of the API server:
// the sidecar asks it for its keys, and its agent is the service account.
func TestAPIServerKnowsTheAccount(t *testing.T) {
	c := apiServer(t)
	c.namespace(t, "agents", "")
	file, err := program()
	if err != nil {
		t.Fatal(err)
	}
	filter := exec.Command(file, "inject", "--image", "actpass:1", "--service-account-issuer", clusterIssuer)
	filter.Stdin = strings.NewReader(agent("agents", "a", wanted, ""))
	doc, err := filter.Output()
	if err != nil {
		t.Fatal(err)
	}
	p, _ := c.pod(t, string(doc))
	isInjected(t, p, false)

	volume := t.TempDir()
	roots, err := os.ReadFile(c.cert)
	if err != nil {
		t.Fatal(err)
	}
	token := func(audience string) string {
		aud := ""
		if audience != "" {
			aud = fmt.Sprintf(`"audiences":[%q],`, audience)
		}
		body := fmt.Sprintf(`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{%s"expirationSeconds":3600,"boundObjectRef":{"kind":"Pod","apiVersion":"v1","name":"a","uid":%q}}}`, aud, p.UID)
		var answer struct{ Status struct{ Token string } }
		c.ask(t, http.MethodPost, "/api/v1/namespaces/agents/serviceaccounts/default/token", "application/json", []byte(body)).into(t, &answer)
		return answer.Status.Token
	}
	filled := 0
	for _, v := range p.Spec.Volumes {
		if v.Name != "actpass-identity" {
			continue
		}
		for _, s := range v.Projected.Sources {
			name, content := "", ""
			switch {
			case s.ServiceAccountToken != nil:
				name, content = s.ServiceAccountToken.Path, token(s.ServiceAccountToken.Audience)
			case s.ConfigMap != nil:
				name, content = s.ConfigMap.Items[0].Path, string(roots)
			}
			if err := os.WriteFile(filepath.Join(volume, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			filled++
		}
	}
	if filled != 3 {
		t.Fatalf("%d files in the volume", filled)
	}
	run := func() string {
		cmd := exec.Command(file, "serve", "--listen.api", port(t), "--listen.proxy", port(t), "--listen.reverse", "off")
		cmd.Dir = t.TempDir()
		cmd.Env = os.Environ()
		for _, e := range p.Spec.InitContainers[0].Env {
			if strings.HasPrefix(e.Name, "ACTPASS_IDENTITY_SERVICE_ACCOUNT_") {
				value := strings.Replace(e.Value, "/var/run/actpass/identity", volume, 1)
				cmd.Env = append(cmd.Env, e.Name+"="+strings.Replace(value, "https://kubernetes.default.svc/", c.url+"/", 1))
			}
		}
		var log bytes.Buffer
		cmd.Stderr = &log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		select {
		case <-done:
		case <-time.After(4 * time.Second):
			_ = cmd.Process.Kill()
			<-done
		}
		return log.String()
	}
	if log := run(); !strings.Contains(log, `"agent_id":"agents/default"`) || !strings.Contains(log, `"ready"`) {
		t.Errorf("with its own token: %s", log)
	}
	identity := filepath.Join(volume, "token")
	if err := os.WriteFile(identity, []byte(token("")), 0o600); err != nil { // for the API server itself
		t.Fatal(err)
	}
	if log := run(); strings.Contains(log, `"ready"`) || !strings.Contains(log, "audience") {
		t.Errorf("with a token of another audience: %s", log)
	}
}
