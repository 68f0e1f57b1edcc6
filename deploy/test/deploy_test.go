// Package deploytest holds what is deployed against the types of Kubernetes. It is
// a module of its own, so that those never come near the product's.
package deploytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

const chart = "../helm/actpass"

// kinds are the types that objects are decoded into, every field of them known.
var kinds = map[string]func() any{
	"v1 Pod":                             func() any { return new(corev1.Pod) },
	"v1 Service":                         func() any { return new(corev1.Service) },
	"v1 ServiceAccount":                  func() any { return new(corev1.ServiceAccount) },
	"v1 ConfigMap":                       func() any { return new(corev1.ConfigMap) },
	"v1 Secret":                          func() any { return new(corev1.Secret) },
	"v1 Namespace":                       func() any { return new(corev1.Namespace) },
	"apps/v1 Deployment":                 func() any { return new(appsv1.Deployment) },
	"apps/v1 StatefulSet":                func() any { return new(appsv1.StatefulSet) },
	"batch/v1 CronJob":                   func() any { return new(batchv1.CronJob) },
	"policy/v1 PodDisruptionBudget":      func() any { return new(policyv1.PodDisruptionBudget) },
	"networking.k8s.io/v1 NetworkPolicy": func() any { return new(networkingv1.NetworkPolicy) },
	"admissionregistration.k8s.io/v1 MutatingWebhookConfiguration": func() any { return new(admissionregistrationv1.MutatingWebhookConfiguration) },
	// Those of operators, as far as they are used here.
	"monitoring.coreos.com/v1 ServiceMonitor": func() any { return new(serviceMonitor) },
	"monitoring.coreos.com/v1 PrometheusRule": func() any { return new(prometheusRule) },
	"cert-manager.io/v1 Issuer":               func() any { return new(issuer) },
	"cert-manager.io/v1 Certificate":          func() any { return new(certificate) },
}

// decode reads every object of a stream strictly.
func decode(t *testing.T, what string, stream []byte) []any {
	t.Helper()
	var out []any
	for doc := range bytes.SplitSeq(append([]byte("\n"), stream...), []byte("\n---")) {
		var head metav1.TypeMeta
		if err := yaml.Unmarshal(doc, &head); err != nil {
			t.Errorf("%s: %v in\n%s", what, err, doc)
			continue
		}
		if head.Kind == "" {
			continue
		}
		if head.Kind == "List" {
			var list struct {
				metav1.TypeMeta `json:",inline"`
				Items           []json.RawMessage `json:"items"`
			}
			if err := yaml.UnmarshalStrict(doc, &list); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			for _, item := range list.Items {
				out = append(out, decode(t, what, item)...)
			}
			continue
		}
		typ := kinds[head.APIVersion+" "+head.Kind]
		if typ == nil {
			t.Errorf("%s: no type for %s %s", what, head.APIVersion, head.Kind)
			continue
		}
		v := typ()
		if err := yaml.UnmarshalStrict(doc, v); err != nil {
			t.Errorf("%s: %s: %v", what, head.Kind, err)
		}
		out = append(out, v)
	}
	return out
}

func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("ACTPASS_E2E_REQUIRE") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

func helm(t *testing.T, args ...string) []byte {
	t.Helper()
	program := os.Getenv("HELM")
	if program == "" {
		program = "helm"
	}
	if _, err := exec.LookPath(program); err != nil {
		missing(t, "helm is needed: go install helm.sh/helm/v3/cmd/helm@v3.22.0 (HELM names it)")
	}
	var out, errs bytes.Buffer
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("helm %s: %v\n%s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.Bytes()
}

func render(t *testing.T, values string) []byte {
	t.Helper()
	// A helm from source believes in an old cluster.
	return helm(t, "template", "actpass", chart, "-n", "actpass-system", "--kube-version", "1.36.0", "-f", values)
}

func TestChart(t *testing.T) {
	files, err := filepath.Glob(chart + "/ci/*.yaml")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			helm(t, "lint", "--strict", "--kube-version", "1.36.0", chart, "-f", file)
			objects := decode(t, file, render(t, file))
			if len(objects) < 5 {
				t.Errorf("only %d objects", len(objects))
			}
			for _, o := range objects {
				hardened(t, o)
			}
		})
	}
}

// hardened holds every container to what the docs promise.
func hardened(t *testing.T, o any) {
	t.Helper()
	var spec corev1.PodSpec
	switch o := o.(type) {
	case *appsv1.Deployment:
		spec = o.Spec.Template.Spec
	case *appsv1.StatefulSet:
		spec = o.Spec.Template.Spec
	case *corev1.Pod:
		spec = o.Spec
	default:
		return
	}
	for _, c := range append(slices.Clone(spec.InitContainers), spec.Containers...) {
		if !strings.Contains(c.Image, "actpass") && !strings.Contains(c.Image, "/sidecar:") {
			continue // an agent of an example
		}
		s := c.SecurityContext
		switch {
		case s == nil, s.ReadOnlyRootFilesystem == nil, s.AllowPrivilegeEscalation == nil, s.RunAsUser == nil, s.Capabilities == nil, s.SeccompProfile == nil:
			t.Errorf("container %s: the security context lacks something: %+v", c.Name, s)
		case !*s.ReadOnlyRootFilesystem, *s.AllowPrivilegeEscalation, !slices.Contains(s.Capabilities.Drop, "ALL"), s.SeccompProfile.Type != "RuntimeDefault":
			t.Errorf("container %s is not hardened: %+v", c.Name, s)
		case c.Name == "actpass-redirect" && !(len(s.Capabilities.Add) == 1 && s.Capabilities.Add[0] == "NET_ADMIN"):
			t.Errorf("container %s: %v", c.Name, s.Capabilities)
		case c.Name != "actpass-redirect" && (*s.RunAsUser == 0 || len(s.Capabilities.Add) > 0):
			t.Errorf("container %s: uid %d, %v", c.Name, *s.RunAsUser, s.Capabilities.Add)
		}
		if c.Resources.Requests.Cpu().IsZero() || c.Resources.Limits.Memory().IsZero() {
			t.Errorf("container %s: resources %+v", c.Name, c.Resources)
		}
	}
}

// TestManifests keeps the plain manifests what the chart renders.
func TestManifests(t *testing.T) {
	want := append([]byte("# Rendered from the chart with ci/manifests.yaml: do not edit. How: docs/kubernetes.md.\n"), render(t, chart+"/ci/manifests.yaml")...)
	file := "../manifests/actpass.yaml"
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is not what the chart renders (%v): UPDATE=1 go test -run TestManifests writes it", file, err)
	}
	decode(t, file, got)
}

// TestCopies: the chart can only read files of its own.
func TestCopies(t *testing.T) {
	for ours, charts := range map[string]string{"../prometheus/actpass.rules.yaml": "alerts.yaml", "../grafana/actpass.json": "dashboard.json"} {
		a, err := os.ReadFile(ours)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(chart, "files", charts)); err != nil || !bytes.Equal(a, b) {
			t.Errorf("%s and the chart's %s differ (%v)", ours, charts, err)
		}
	}
}

// future is a field that the injection must keep, and that is none of today's.
var future = regexp.MustCompile(`(?m)^.*futureField.*\n`)

// TestInjected: what the injection writes is what Kubernetes reads.
func TestInjected(t *testing.T) {
	for _, file := range []string{"deployment.out.yaml", "kinds.out.yaml", "pod.out.json"} {
		b, err := os.ReadFile("../../inject/testdata/" + file)
		if err != nil {
			t.Fatal(err)
		}
		b = future.ReplaceAll(b, nil)
		found := 0
		for _, o := range decode(t, file, b) {
			var spec *corev1.PodSpec
			switch o := o.(type) {
			case *appsv1.Deployment:
				spec = &o.Spec.Template.Spec
			case *batchv1.CronJob:
				spec = &o.Spec.JobTemplate.Spec.Template.Spec
			case *corev1.Pod:
				spec = &o.Spec
			}
			if spec == nil || len(spec.InitContainers) == 0 {
				continue
			}
			found++
			first := spec.InitContainers[0]
			if first.Name != "actpass" || first.RestartPolicy == nil || *first.RestartPolicy != corev1.ContainerRestartPolicyAlways || first.StartupProbe == nil {
				t.Errorf("%s: the first init container is %+v", file, first)
			}
			hardened(t, &corev1.Pod{Spec: *spec})
		}
		if found == 0 {
			t.Errorf("%s: no injected pod", file)
		}
	}
}

// TestAdmission speaks to the webhook's code as the API server does.
func TestAdmission(t *testing.T) {
	pod := corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{"actpass.dev/inject": "enabled"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "agent", Image: "agent:1"}}},
	}
	raw, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	review := admissionv1.AdmissionReview{TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}, Request: &admissionv1.AdmissionRequest{
		UID: "u", Kind: metav1.GroupVersionKind{Version: "v1", Kind: "Pod"}, Operation: admissionv1.Create,
	}}
	review.Request.Object.Raw = raw
	body, err := json.Marshal(review)
	if err != nil {
		t.Fatal(err)
	}
	answer := webhook(t, body)
	var got admissionv1.AdmissionReview
	if err := yaml.UnmarshalStrict(answer, &got); err != nil || got.Response == nil {
		t.Fatalf("%v in %s", err, answer)
	}
	if !got.Response.Allowed || got.Response.UID != "u" || got.Response.PatchType == nil || *got.Response.PatchType != admissionv1.PatchTypeJSONPatch {
		t.Fatalf("%+v", got.Response)
	}
	patched := patch(t, raw, got.Response.Patch)
	var out corev1.Pod
	if err := yaml.UnmarshalStrict(patched, &out); err != nil {
		t.Fatalf("%v in %s", err, patched)
	}
	if len(out.Spec.InitContainers) != 1 || len(out.Spec.Containers) != 1 || len(out.Spec.Containers[0].Env) < 20 || len(out.Spec.Volumes) != 2 {
		t.Errorf("patched: %s", patched)
	}
	hardened(t, &out)
}

// TestMetricsExist: what dashboards and alerts ask for, the sidecar gives.
func TestMetricsExist(t *testing.T) {
	given := scrape(t)
	asked := map[string]bool{}
	for _, file := range []string{"../prometheus/actpass.rules.yaml", "../grafana/actpass.json"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range regexp.MustCompile(`\b(?:actpass|process|go)_[a-z_]+\b`).FindAllString(string(b), -1) {
			asked[name] = true
		}
		for _, m := range regexp.MustCompile(`kind=~?\\?"([a-z_|]+)`).FindAllStringSubmatch(string(b), -1) {
			for kind := range strings.SplitSeq(m[1], "|") {
				if !strings.Contains(given, fmt.Sprintf(`actpass_faults_total{kind=%q}`, kind)) {
					t.Errorf("%s: there are no faults of the kind %s", file, kind)
				}
			}
		}
	}
	if len(asked) < 8 {
		t.Fatalf("only %d names were found", len(asked))
	}
	for name := range asked {
		if !regexp.MustCompile(`(?m)^` + name + `(\{| )`).MatchString(given) {
			t.Errorf("%s is asked for and not given", name)
		}
	}
}
