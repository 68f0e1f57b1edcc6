package deploytest

import (
	"crypto/tls"
	"encoding/json"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// waitFor waits until ok holds.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// webhookAddress is the Service's of the webhook: see cluster.
const webhookAddress = "127.0.0.77"

// install is what a values file renders, in a cluster, with the webhook run by the
// arguments and the certificate that the chart gives it.
type install struct {
	c         *cluster
	program   string
	args      []string
	cert, key string // file names
	cmd       *exec.Cmd
	config    string // the MutatingWebhookConfiguration, as it was rendered
	rendered  admissionregistrationv1.MutatingWebhookConfiguration
}

func installed(t *testing.T, c *cluster, values string) *install {
	t.Helper()
	in := &install{c: c}
	var err error
	if in.program, err = program(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	in.cert, in.key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	for _, doc := range documents(t, render(t, values)) {
		_, h := c.path(t, doc)
		switch h.Kind {
		case "Secret":
			var s corev1.Secret
			if err := yaml.Unmarshal([]byte(doc), &s); err != nil {
				t.Fatal(err)
			}
			in.write(t, s.Data["tls.crt"], s.Data["tls.key"])
		case "Deployment":
			var d appsv1.Deployment
			if err := yaml.Unmarshal([]byte(doc), &d); err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(d.Name, "-webhook") {
				for _, arg := range d.Spec.Template.Spec.Containers[0].Args {
					switch {
					case strings.HasPrefix(arg, "--listen="):
						arg = "--listen=" + webhookAddress + ":443"
					case strings.HasPrefix(arg, "--tls-cert="):
						arg = "--tls-cert=" + in.cert
					case strings.HasPrefix(arg, "--tls-key="):
						arg = "--tls-key=" + in.key
					}
					in.args = append(in.args, arg)
				}
			}
		case "Service":
			if strings.HasSuffix(h.Name, "-webhook") {
				doc = strings.Replace(doc, "\nspec:", "\nspec:\n  clusterIP: "+webhookAddress, 1)
			}
		case "MutatingWebhookConfiguration":
			in.config = doc
			if err := yaml.UnmarshalStrict([]byte(doc), &in.rendered); err != nil {
				t.Fatal(err)
			}
		}
		c.created(t, doc)
	}
	t.Cleanup(in.stop)
	return in
}

// write replaces the files as a rotation does.
func (in *install) write(t *testing.T, cert, key []byte) {
	t.Helper()
	for file, content := range map[string][]byte{in.key: key, in.cert: cert} {
		if err := os.WriteFile(file+".new", content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
}

// serve runs the webhook, and waits until it answers under the Service's name.
func (in *install) serve(t *testing.T) {
	t.Helper()
	in.cmd = exec.Command(in.program, in.args...)
	in.cmd.Dir = t.TempDir()
	if err := in.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the webhook answers", func() bool { _, err := in.presented(); return err == nil })
}

func (in *install) stop() {
	if in.cmd != nil {
		_ = in.cmd.Process.Kill()
		_ = in.cmd.Wait()
		in.cmd = nil
	}
}

// presented is the serial number of the certificate that a new connection gets.
func (in *install) presented() (*big.Int, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Second}, "tcp", webhookAddress+":443", &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber, nil
}

// agent is a pod of one agent; more goes below metadata.
func agent(namespace, name, metadata, spec string) string {
	return "apiVersion: v1\nkind: Pod\nmetadata: { name: " + name + ", namespace: " + namespace + metadata + " }\nspec: { " + spec +
		"initContainers: [{ name: prepare, image: agent:1 }], containers: [{ name: agent, image: agent:1, env: [{ name: HOME, value: /home }] }, { name: helper, image: agent:1 }] }\n"
}

const (
	wanted     = `, labels: { actpass.dev/inject: enabled }`
	unwanted   = `, labels: { actpass.dev/inject: disabled }`
	redirected = wanted + `, annotations: { actpass.dev/redirect: "true" }`
	// safe is what the Pod Security level restricted asks for, of the pod; containers
	// need more.
	safe = `securityContext: { runAsNonRoot: true, runAsUser: 10001, seccompProfile: { type: RuntimeDefault } }, `
)

func (c *cluster) pod(t *testing.T, doc string) (corev1.Pod, answered) {
	t.Helper()
	a := c.created(t, doc)
	var p corev1.Pod
	a.into(t, &p)
	return p, a
}

// isInjected says that a pod has what docs/kubernetes.md promises.
func isInjected(t *testing.T, p corev1.Pod, redirect bool) {
	t.Helper()
	inits := p.Spec.InitContainers
	if len(inits) < 2 || inits[0].Name != "actpass" || inits[0].RestartPolicy == nil || *inits[0].RestartPolicy != corev1.ContainerRestartPolicyAlways {
		t.Fatalf("%s: the init containers are %+v", p.Name, inits)
	}
	if got := inits[1].Name == "actpass-redirect"; got != redirect {
		t.Errorf("%s: redirect %v", p.Name, got)
	}
	for _, c := range slices.Concat(inits, p.Spec.Containers) {
		if strings.HasPrefix(c.Name, "actpass") {
			continue
		}
		env := map[string]string{}
		for _, e := range c.Env {
			if _, twice := env[e.Name]; twice {
				t.Errorf("%s/%s: %s is there twice", p.Name, c.Name, e.Name)
			}
			env[e.Name] = e.Value
		}
		if env["HTTPS_PROXY"] == "" || env["https_proxy"] == "" || env["NODE_EXTRA_CA_CERTS"] == "" || env["SSL_CERT_FILE"] == "" {
			t.Errorf("%s/%s lacks variables: %v", p.Name, c.Name, env)
		}
		if !slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == "/var/run/actpass/trust" && m.ReadOnly }) {
			t.Errorf("%s/%s lacks the trust files", p.Name, c.Name)
		}
	}
	hardened(t, &corev1.Pod{Spec: p.Spec})
}

// TestAPIServerCallsTheWebhook: the API server sends pods to the webhook that the chart
// installs, as the chart registers it, and takes what comes back.
func TestAPIServerCallsTheWebhook(t *testing.T) {
	c := apiServer(t)
	c.namespace(t, "actpass-system", "")
	c.namespace(t, "agents", "")
	c.namespace(t, "labelled", "actpass.dev/inject: enabled")
	c.namespace(t, "guarded", "pod-security.kubernetes.io/enforce: restricted")
	c.namespace(t, "counted", "")
	// What the API server makes of pods without us.
	before := map[string]corev1.Pod{}
	for name, doc := range map[string]string{"plain": agent("agents", "plain", "", ""), "out": agent("labelled", "out", unwanted, "")} {
		a := c.create(t, doc)
		var p corev1.Pod
		a.into(t, &p)
		before[name] = p
		c.remove(t, doc, name)
	}
	in := installed(t, c, chart+"/ci/default.yaml")
	in.serve(t)
	// The API server takes up a new configuration within a second or so.
	waitFor(t, "pods are sent to the webhook", func() bool {
		doc := agent("agents", "first", wanted, "")
		a := c.create(t, doc)
		if a.status == http.StatusCreated {
			c.remove(t, doc, "first")
		}
		return strings.Contains(string(a.body), `"actpass-trust"`)
	})

	t.Run("injected", func(t *testing.T) {
		p, a := c.pod(t, agent("agents", "a", wanted, ""))
		isInjected(t, p, false)
		if p.Annotations["actpass.dev/injected"] != "advisory" || len(a.warnings) != 0 {
			t.Errorf("annotations %v, warnings %q", p.Annotations, a.warnings)
		}
		mounts := 0 // of the token, which the API server adds before it asks
		for _, ct := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
			if slices.ContainsFunc(ct.VolumeMounts, func(m corev1.VolumeMount) bool {
				return strings.HasPrefix(m.MountPath, "/var/run/secrets/kubernetes.io")
			}) {
				mounts++
				if strings.HasPrefix(ct.Name, "actpass") {
					t.Error("the sidecar is given the pod's token")
				}
			}
		}
		if mounts != 3 {
			t.Errorf("%d containers have the token", mounts)
		}
	})
	t.Run("namespace", func(t *testing.T) {
		p, _ := c.pod(t, agent("labelled", "a", "", ""))
		isInjected(t, p, false)
	})
	t.Run("redirected", func(t *testing.T) {
		p, a := c.pod(t, agent("agents", "r", redirected, safe))
		isInjected(t, p, true)
		if p.Annotations["actpass.dev/injected"] != "forced" || len(a.warnings) != 0 {
			t.Errorf("annotations %v, warnings %q", p.Annotations, a.warnings)
		}
		p, a = c.pod(t, agent("agents", "as-root", redirected, ""))
		isInjected(t, p, true)
		if p.Annotations["actpass.dev/injected"] != "advisory" || len(a.warnings) == 0 {
			t.Errorf("annotations %v, warnings %q", p.Annotations, a.warnings)
		}
	})
	t.Run("untouched", func(t *testing.T) {
		for name, doc := range map[string]string{"plain": agent("agents", "plain", "", ""), "out": agent("labelled", "out", unwanted, "")} {
			p, _ := c.pod(t, doc)
			was := before[name]
			for _, v := range []*corev1.Pod{&p, &was} { // the one name that is by chance
				raw, _ := json.Marshal(v.Spec)
				for _, volume := range v.Spec.Volumes {
					raw = []byte(strings.ReplaceAll(string(raw), volume.Name, "token"))
				}
				v.Spec = corev1.PodSpec{}
				if err := json.Unmarshal(raw, &v.Spec); err != nil {
					t.Fatal(err)
				}
			}
			if !reflect.DeepEqual(p.Spec, was.Spec) || !reflect.DeepEqual(p.Annotations, was.Annotations) || !reflect.DeepEqual(p.Labels, was.Labels) {
				t.Errorf("%s: it was\n%+v\nand is\n%+v", name, was.Spec, p.Spec)
			}
		}
		for _, namespace := range []string{"actpass-system"} {
			if p, _ := c.pod(t, agent(namespace, "own", wanted, "")); len(p.Spec.InitContainers) != 1 {
				t.Errorf("a pod in %s was changed", namespace)
			}
		}
	})
	t.Run("refused", func(t *testing.T) {
		a := c.create(t, agent("agents", "host", wanted, "hostNetwork: true, "))
		if a.status != 422 || !strings.Contains(a.message(), "the pod uses the node's network") {
			t.Errorf("%s", a.message())
		}
		a = c.create(t, agent("agents", "loose", wanted+`, annotations: { actpass.dev/mode: "lax" }`, ""))
		if a.status != 422 || !strings.Contains(a.message(), `"lax" is none of monitor, warn, enforce, strict`) {
			t.Errorf("%s", a.message())
		}
	})
	t.Run("dry run", func(t *testing.T) { // sideEffects: None
		collection, _ := c.path(t, agent("agents", "dry", wanted, ""))
		a := c.ask(t, http.MethodPost, collection+"?dryRun=All&fieldValidation=Strict", "application/yaml", []byte(agent("agents", "dry", wanted, "")))
		var p corev1.Pod
		a.into(t, &p)
		isInjected(t, p, false)
	})
	t.Run("once", func(t *testing.T) { // what the filter has injected, the webhook leaves alone
		p, _ := c.pod(t, agent("agents", "again", redirected, safe))
		p.Status, p.ResourceVersion, p.UID, p.ManagedFields = corev1.PodStatus{}, "", "", nil
		p.Name = "again-2"
		raw, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		p2, _ := c.pod(t, string(raw))
		if !reflect.DeepEqual(p.Spec, p2.Spec) {
			t.Errorf("a second injection changed\n%+v\ninto\n%+v", p.Spec, p2.Spec)
		}
	})
	t.Run("pod security", func(t *testing.T) {
		strict := `securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: [ALL] } }`
		doc := strings.ReplaceAll(agent("guarded", "g", wanted, safe), "image: agent:1", "image: agent:1, "+strict)
		p, a := c.pod(t, doc)
		isInjected(t, p, false)
		if len(a.warnings) != 0 {
			t.Errorf("%q", a.warnings)
		}
		doc = strings.ReplaceAll(agent("guarded", "h", redirected, safe), "image: agent:1", "image: agent:1, "+strict)
		if a := c.create(t, doc); a.status != 403 || !strings.Contains(a.message(), "NET_ADMIN") {
			t.Errorf("%s", a.message())
		}
	})
	t.Run("quota", func(t *testing.T) {
		// A quota on what the sidecar does not say refuses the pod, and says so.
		c.created(t, "apiVersion: v1\nkind: ResourceQuota\nmetadata: { name: q, namespace: counted }\nspec: { hard: { limits.memory: 1Gi } }\n")
		c.created(t, "apiVersion: v1\nkind: ResourceQuota\nmetadata: { name: q2, namespace: counted }\nspec: { hard: { limits.cpu: \"4\" } }\n")
		for _, q := range []string{"q", "q2"} { // what a controller would count
			var quota corev1.ResourceQuota
			c.ask(t, http.MethodGet, "/api/v1/namespaces/counted/resourcequotas/"+q, "application/json", nil).into(t, &quota)
			status, err := json.Marshal(map[string]any{"status": map[string]any{"hard": quota.Spec.Hard, "used": map[string]string{"limits.memory": "0", "limits.cpu": "0"}}})
			if err != nil {
				t.Fatal(err)
			}
			if a := c.ask(t, http.MethodPatch, "/api/v1/namespaces/counted/resourcequotas/"+q+"/status", "application/merge-patch+json", status); a.status != 200 {
				t.Fatal(a.message())
			}
		}
		time.Sleep(time.Second) // it is taken up
		with := strings.ReplaceAll(agent("counted", "q", wanted, ""), "image: agent:1", "image: agent:1, resources: { limits: { memory: 10Mi, cpu: 100m } }")
		a := c.create(t, with)
		if a.status != 403 || !strings.Contains(a.message(), "limits.cpu for: actpass") {
			t.Errorf("%s", a.message())
		}
	})
	t.Run("reinvoked", func(t *testing.T) { in.late(t) })
	t.Run("rotation", func(t *testing.T) { in.rotates(t) })
	t.Run("away", func(t *testing.T) { in.away(t) })
}
