package deploytest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
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

// late adds a container by another webhook, after ours.
func (in *install) late(t *testing.T) {
	ca, cert := issue(t, nil, "127.0.0.1")
	_, key := pemOf(t, cert)
	crt, _ := pemOf(t, cert)
	pair, err := tls.X509KeyPair(crt, key)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int64
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		var review struct {
			Request struct {
				UID    string
				Object corev1.Pod
			}
		}
		_ = json.NewDecoder(r.Body).Decode(&review)
		answer := map[string]any{"uid": review.Request.UID, "allowed": true}
		if !slices.ContainsFunc(review.Request.Object.Spec.Containers, func(c corev1.Container) bool { return c.Name == "late" }) {
			answer["patchType"] = "JSONPatch"
			answer["patch"] = base64.StdEncoding.EncodeToString([]byte(`[{"op":"add","path":"/spec/containers/-","value":{"name":"late","image":"late:1"}}]`))
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer})
	})}
	go func() { _ = server.Serve(ln) }()
	defer server.Close()
	bundle, _ := pemOf(t, ca)
	in.c.created(t, fmt.Sprintf(`apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: { name: zz-late }
webhooks:
  - name: late.example.test
    admissionReviewVersions: [v1]
    sideEffects: None
    failurePolicy: Ignore
    rules: [{ apiGroups: [""], apiVersions: [v1], resources: [pods], operations: [CREATE] }]
    objectSelector: { matchLabels: { late: "yes" } }
    clientConfig: { url: "https://%s/", caBundle: %s }
`, ln.Addr(), base64.StdEncoding.EncodeToString(bundle)))
	labels := `, labels: { actpass.dev/inject: enabled, late: "yes" }`
	waitFor(t, "the other webhook is called", func() bool {
		doc := agent("agents", "probe", labels, "")
		if a := in.c.create(t, doc); a.status == http.StatusCreated {
			in.c.remove(t, doc, "probe")
		}
		return calls.Load() > 0
	})
	p, _ := in.c.pod(t, agent("agents", "late", labels, ""))
	if len(p.Spec.Containers) != 3 || p.Spec.Containers[2].Name != "late" {
		t.Fatalf("containers %+v", p.Spec.Containers)
	}
	isInjected(t, p, false) // the late one too
}

// rotates replaces the certificate while pods are created: first under the same CA
// bundle, then under a new one.
func (in *install) rotates(t *testing.T) {
	stop := make(chan struct{})
	done := make(chan error, 1)
	n := 0
	go func() {
		defer close(done)
		for ; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			doc := agent("agents", fmt.Sprint("rotating-", n), wanted, "")
			a := in.c.create(t, doc)
			if !strings.Contains(string(a.body), `"actpass-trust"`) {
				done <- fmt.Errorf("pod %d: %s", n, a.message())
				return
			}
			in.c.remove(t, doc, fmt.Sprint("rotating-", n))
		}
	}()
	host := "actpass-webhook.actpass-system.svc"
	ca, first := issue(t, nil, host)
	// The API server trusts the old CA and the new one, until the new certificate is in use.
	crt, _ := pemOf(t, ca)
	in.trust(t, append(slices.Clone(in.rendered.Webhooks[0].ClientConfig.CABundle), crt...))
	time.Sleep(3 * time.Second) // it is taken up
	use := func(cert *certified) {
		t.Helper()
		c, k := pemOf(t, cert)
		in.write(t, c, k)
		waitFor(t, "the new certificate is in use", func() bool {
			serial, err := in.presented()
			return err == nil && serial.Cmp(cert.cert.SerialNumber) == 0
		})
	}
	use(first)
	in.trust(t, crt) // the old CA is out of it
	time.Sleep(2 * time.Second)
	_, second := issue(t, ca, host)
	use(second)
	time.Sleep(time.Second)
	// A pair that does not fit leaves the last good one.
	_, other := issue(t, nil, host)
	_, wrong := pemOf(t, other)
	c, _ := pemOf(t, second)
	in.write(t, c, wrong)
	time.Sleep(2 * time.Second)
	if serial, err := in.presented(); err != nil || serial.Cmp(second.cert.SerialNumber) != 0 {
		t.Errorf("after a pair that does not fit: %v, %v", serial, err)
	}
	_, right := pemOf(t, second)
	in.write(t, c, right)
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
	t.Logf("%d pods were created and injected meanwhile", n)
	if n < 20 {
		t.Errorf("only %d pods", n)
	}
}

// trust has the API server believe a bundle, as cert-manager's injector does.
func (in *install) trust(t *testing.T, bundle []byte) {
	t.Helper()
	text := base64.StdEncoding.EncodeToString(bundle)
	ops := fmt.Sprintf(`[{"op":"replace","path":"/webhooks/0/clientConfig/caBundle","value":%q},{"op":"replace","path":"/webhooks/1/clientConfig/caBundle","value":%q}]`, text, text)
	collection, h := in.c.path(t, in.config)
	if a := in.c.ask(t, http.MethodPatch, collection+"/"+h.Name, "application/json-patch+json", []byte(ops)); a.status != 200 {
		t.Fatal(a.message())
	}
}

// away is the failure policy.
func (in *install) away(t *testing.T) {
	in.stop()
	a := in.c.create(t, agent("agents", "none", wanted, ""))
	if a.status != 500 || !strings.Contains(a.message(), `failed calling webhook "pod.inject.actpass.dev"`) {
		t.Errorf("with Fail: %s", a.message())
	}
	if p, _ := in.c.pod(t, agent("agents", "other", "", "")); len(p.Spec.InitContainers) != 1 {
		t.Errorf("a pod without the label was changed")
	}
	in.c.pod(t, agent("labelled", "other-out", unwanted, ""))
	collection, h := in.c.path(t, in.config)
	ops := `[{"op":"replace","path":"/webhooks/0/failurePolicy","value":"Ignore"}]`
	if a := in.c.ask(t, http.MethodPatch, collection+"/"+h.Name, "application/json-patch+json", []byte(ops)); a.status != 200 {
		t.Fatal(a.message())
	}
	waitFor(t, "with Ignore a pod starts without a sidecar", func() bool {
		doc := agent("agents", "ignored", wanted, "")
		a := in.c.create(t, doc)
		if a.status == http.StatusCreated {
			in.c.remove(t, doc, "ignored")
		}
		return a.status == http.StatusCreated && !strings.Contains(string(a.body), "actpass-trust")
	})
	in.serve(t)
	p, _ := in.c.pod(t, agent("agents", "back", wanted, ""))
	isInjected(t, p, false)
}

// certified is a certificate with its key.
type certified struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// issue makes a certificate for a host; ca nil: under a new CA, which it gives too.
func issue(t *testing.T, ca *certified, host string) (by, cert *certified) {
	t.Helper()
	make := func(template, parent *x509.Certificate, signer *ecdsa.PrivateKey) *certified {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template.SerialNumber, _ = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		if signer == nil {
			parent, signer = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return &certified{c, key}
	}
	if ca == nil {
		ca = make(&x509.Certificate{Subject: pkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	}
	template := &x509.Certificate{Subject: pkix.Name{CommonName: host}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	return ca, make(template, ca.cert, ca.key)
}

func pemOf(t *testing.T, c *certified) (cert, key []byte) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}
