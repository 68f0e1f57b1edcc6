package deploytest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// cluster is a real kube-apiserver on a real etcd: admission, defaults and validation
// as they are in a cluster, without controllers and kubelets.
//
// Services have addresses of the loopback (--service-cluster-ip-range), so that the API
// server calls the webhook through the Service and under the name that the chart writes.
type cluster struct {
	url    string
	client *http.Client
	cert   string // file of its own certificate, with the CA that signed it
}

const clusterToken = "a-token-of-the-test"

// apiServer starts one for the test. ACTPASS_KUBE_APISERVER and ACTPASS_ETCD name the
// programs; docs/kubernetes.md says how to come by them. It is too slow to build for
// every run.
func apiServer(t *testing.T) *cluster {
	t.Helper()
	server, etcd := os.Getenv("ACTPASS_KUBE_APISERVER"), os.Getenv("ACTPASS_ETCD")
	if server == "" || etcd == "" {
		t.Skip("ACTPASS_KUBE_APISERVER and ACTPASS_ETCD name no programs")
	}
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	signing := file("sa.key", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	public := file("sa.pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pub}))
	tokens := file("tokens.csv", []byte(clusterToken+`,admin,admin,"system:masters"`+"\n"))

	store, peer := "http://"+port(t), "http://"+port(t)
	background(t, etcd, "--data-dir", filepath.Join(dir, "etcd"), "--listen-client-urls", store, "--advertise-client-urls", store,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer, "--unsafe-no-fsync", "--log-level", "error")
	addr := port(t)
	background(t, server, "--etcd-servers", store, "--bind-address", "127.0.0.1", "--secure-port", addr[strings.LastIndex(addr, ":")+1:], "--cert-dir", filepath.Join(dir, "certs"),
		"--service-account-issuer", "https://kubernetes.default.svc.cluster.local", "--service-account-key-file", public, "--service-account-signing-key-file", signing,
		"--token-auth-file", tokens, "--authorization-mode", "RBAC", "--service-cluster-ip-range", "127.0.0.0/24", "--endpoint-reconciler-type", "none", "--v", "0")
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // its certificate is its own
	t.Cleanup(tr.CloseIdleConnections)
	c := &cluster{url: "https://" + addr, client: &http.Client{Transport: bearer{tr}, Timeout: 30 * time.Second}, cert: filepath.Join(dir, "certs", "apiserver.crt")}
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		resp, err := c.client.Get(c.url + "/readyz")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == 200 {
				t.Logf("the API server is ready after %s", time.Since(began).Round(100*time.Millisecond))
				return c
			}
		}
		if time.Since(began) > 90*time.Second {
			t.Fatalf("the API server is not ready: %v", err)
		}
	}
}

// bearer is who the test is.
type bearer struct{ http.RoundTripper }

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+clusterToken)
	return b.RoundTripper.RoundTrip(r)
}

// background runs a program until the test ends, and shows the end of what it said
// when the test failed.
func background(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Dir = t.TempDir()
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			text := log.String()
			t.Logf("%s said at its end: %s", filepath.Base(name), text[max(0, len(text)-3000):])
		}
	})
	return cmd
}

// answered is what the API server said to one request.
type answered struct {
	status   int
	body     []byte
	warnings []string
}

// message is the sentence of a refusal.
func (a answered) message() string {
	var s metav1.Status
	_ = json.Unmarshal(a.body, &s)
	return fmt.Sprint(a.status, " ", s.Message)
}

func (a answered) into(t *testing.T, v any) {
	t.Helper()
	if a.status/100 != 2 {
		t.Fatalf("refused: %s", a.message())
	}
	if err := json.Unmarshal(a.body, v); err != nil {
		t.Fatal(err)
	}
}

// ask sends a request with a body in JSON or YAML; nil: none.
func (c *cluster) ask(t *testing.T, method, path, contentType string, body []byte) answered {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, c.url+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := c.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answered{resp.StatusCode, out, resp.Header.Values("Warning")}
}

// plurals are the paths of the kinds.
var plurals = map[string]string{
	"v1 Pod": "/api/v1/namespaces/%s/pods", "v1 Service": "/api/v1/namespaces/%s/services", "v1 ServiceAccount": "/api/v1/namespaces/%s/serviceaccounts",
	"v1 ConfigMap": "/api/v1/namespaces/%s/configmaps", "v1 Secret": "/api/v1/namespaces/%s/secrets", "v1 Namespace": "/api/v1/namespaces",
	"v1 ResourceQuota":   "/api/v1/namespaces/%s/resourcequotas",
	"apps/v1 Deployment": "/apis/apps/v1/namespaces/%s/deployments", "apps/v1 StatefulSet": "/apis/apps/v1/namespaces/%s/statefulsets",
	"batch/v1 CronJob": "/apis/batch/v1/namespaces/%s/cronjobs", "policy/v1 PodDisruptionBudget": "/apis/policy/v1/namespaces/%s/poddisruptionbudgets",
	"networking.k8s.io/v1 NetworkPolicy":                           "/apis/networking.k8s.io/v1/namespaces/%s/networkpolicies",
	"admissionregistration.k8s.io/v1 MutatingWebhookConfiguration": "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
	"apiextensions.k8s.io/v1 CustomResourceDefinition":             "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
	"monitoring.coreos.com/v1 ServiceMonitor":                      "/apis/monitoring.coreos.com/v1/namespaces/%s/servicemonitors",
	"monitoring.coreos.com/v1 PrometheusRule":                      "/apis/monitoring.coreos.com/v1/namespaces/%s/prometheusrules",
	"cert-manager.io/v1 Issuer":                                    "/apis/cert-manager.io/v1/namespaces/%s/issuers",
	"cert-manager.io/v1 Certificate":                               "/apis/cert-manager.io/v1/namespaces/%s/certificates",
}

type head struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
}

// documents splits a stream, lists too.
func documents(t *testing.T, stream []byte) (out []string) {
	t.Helper()
	for doc := range bytes.SplitSeq(append([]byte("\n"), stream...), []byte("\n---")) {
		if !regexp.MustCompile(`(?m)^\s*[^#\s]`).Match(doc) {
			continue
		}
		var list struct {
			Kind  string            `json:"kind"`
			Items []json.RawMessage `json:"items"`
		}
		if err := yaml.Unmarshal(doc, &list); err != nil {
			t.Fatal(err)
		}
		if list.Kind != "List" {
			out = append(out, string(doc))
			continue
		}
		for _, item := range list.Items {
			out = append(out, string(item)) // JSON is YAML
		}
	}
	return out
}

func (c *cluster) path(t *testing.T, doc string) (collection string, h head) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(doc), &h); err != nil {
		t.Fatal(err)
	}
	kind := h.APIVersion + " " + h.Kind
	if plurals[kind] == "" {
		t.Fatalf("no path for %s", kind)
	}
	collection = plurals[kind]
	if strings.Contains(collection, "%s") {
		namespace := h.Namespace
		if namespace == "" {
			namespace = "default"
		}
		collection = fmt.Sprintf(collection, namespace)
	}
	return collection, h
}

// create sends one document, in YAML as it is, with every unknown field an error.
func (c *cluster) create(t *testing.T, doc string) answered {
	t.Helper()
	collection, _ := c.path(t, doc)
	return c.ask(t, http.MethodPost, collection+"?fieldValidation=Strict", "application/yaml", []byte(doc))
}

// created is create that must succeed; it is taken away at the end of the test.
func (c *cluster) created(t *testing.T, doc string) answered {
	t.Helper()
	a := c.create(t, doc)
	if a.status != http.StatusCreated {
		t.Fatalf("%s in\n%s", a.message(), doc)
	}
	var h head
	a.into(t, &h)
	t.Cleanup(func() { c.remove(t, doc, h.Name) })
	return a
}

func (c *cluster) remove(t *testing.T, doc, name string) {
	t.Helper()
	collection, _ := c.path(t, doc)
	if a := c.ask(t, http.MethodDelete, collection+"/"+name+"?gracePeriodSeconds=0", "application/json", nil); a.status/100 != 2 {
		t.Errorf("remove %s: %s", name, a.message())
	}
}

// namespace makes one with the service account that a controller would make.
func (c *cluster) namespace(t *testing.T, name string, labels string) {
	t.Helper()
	doc := "apiVersion: v1\nkind: Namespace\nmetadata: { name: " + name + ", labels: { " + labels + " } }\n"
	if a := c.create(t, doc); a.status != http.StatusCreated { // it stays: nothing here would end it
		t.Fatal(a.message())
	}
	account := "apiVersion: v1\nkind: ServiceAccount\nmetadata: { name: default, namespace: " + name + " }\n"
	if a := c.create(t, account); a.status != http.StatusCreated {
		t.Fatal(a.message())
	}
}
