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
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

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
