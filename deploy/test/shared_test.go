package deploytest

import (
	"bytes"
	"os"
	"os/exec"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
)

// sharesStore says that a container is given the Secret of the database, and is told
// where it is.
func sharesStore(t *testing.T, what, secret string, c corev1.Container, volumes []corev1.Volume) {
	t.Helper()
	env := map[string]string{}
	for _, v := range c.Env {
		env[v.Name] = v.Value
	}
	if env["ACTPASS_STORE_DRIVER"] != "postgres" || env["ACTPASS_STORE_DSN_FILE"] != "/etc/actpass-store/dsn" || env["ACTPASS_STORE_KEY_FILE"] != "/etc/actpass-store/key" {
		t.Errorf("%s: environment %v", what, env)
	}
	at := slices.IndexFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == "/etc/actpass-store" && m.ReadOnly })
	if at < 0 {
		t.Fatalf("%s: mounts %+v", what, c.VolumeMounts)
	}
	if !slices.ContainsFunc(volumes, func(v corev1.Volume) bool {
		return v.Name == c.VolumeMounts[at].Name && v.Secret != nil && v.Secret.SecretName == secret
	}) {
		t.Errorf("%s: volumes %+v", what, volumes)
	}
}

// TestShared: with the Secret of a database the control is a Deployment of the role
// control, and everything else is told of the database too.
func TestShared(t *testing.T) {
	var control *appsv1.Deployment
	var paired *appsv1.StatefulSet
	var service *corev1.Service
	var budget *policyv1.PodDisruptionBudget
	var webhook []string
	for _, o := range decode(t, "shared", render(t, chart+"/ci/shared.yaml")) {
		switch o := o.(type) {
		case *appsv1.Deployment:
			if o.Name == "actpass-control" {
				control = o
			} else {
				webhook = o.Spec.Template.Spec.Containers[0].Args
			}
		case *appsv1.StatefulSet:
			paired = o
		case *corev1.Service:
			if o.Name == "actpass-control" {
				service = o
			}
		case *policyv1.PodDisruptionBudget:
			if o.Name == "actpass-control" {
				budget = o
			}
		}
	}
	if control == nil || paired == nil || service == nil || budget == nil {
		t.Fatalf("control %v, paired %v, service %v, budget %v", control != nil, paired != nil, service != nil, budget != nil)
	}
	pod := control.Spec.Template.Spec
	c := pod.Containers[0]
	if *control.Spec.Replicas != 2 || !slices.Equal(c.Args, []string{"serve", "--role", "control"}) || len(c.Ports) != 1 {
		t.Errorf("%d replicas, args %q, ports %+v", *control.Spec.Replicas, c.Args, c.Ports)
	}
	sharesStore(t, "control", "actpass-store", c, pod.Volumes)
	sharesStore(t, "paired", "actpass-store", paired.Spec.Template.Spec.Containers[0], paired.Spec.Template.Spec.Volumes)
	for what, spec := range map[string]corev1.PodSpec{"paired": paired.Spec.Template.Spec, "control": pod} {
		has := slices.ContainsFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Secret != nil && v.Secret.SecretName == "actpass-ca" })
		tells := slices.ContainsFunc(spec.Containers[0].Env, func(v corev1.EnvVar) bool {
			return v.Name == "ACTPASS_CA_KEY_FILE" && v.Value == "/etc/actpass-ca/tls.key"
		})
		if want := what == "paired"; has != want || tells != want {
			t.Errorf("%s: the CA's Secret is mounted: %v, and named: %v", what, has, tells)
		}
	}
	for name, selector := range map[string]map[string]string{"service": service.Spec.Selector, "budget": budget.Spec.Selector.MatchLabels} {
		for k, v := range selector {
			if control.Spec.Template.Labels[k] != v {
				t.Errorf("the %s asks for %s=%s, the pods have %v", name, k, v, control.Spec.Template.Labels)
			}
		}
	}
	if len(service.Spec.Ports) != 1 || budget.Spec.MaxUnavailable.IntValue() != 1 {
		t.Errorf("ports %+v, budget %+v", service.Spec.Ports, budget.Spec)
	}
	if !slices.Contains(webhook, "--store-secret=actpass-store") || !slices.Contains(webhook, "--service-account-issuer=https://kubernetes.default.svc.cluster.local") {
		t.Errorf("the webhook does not tell injected pods: %q", webhook)
	}
}

// provesAccount says that the sidecar has a token of its own audience, and what it
// needs to have it verified.
func provesAccount(t *testing.T, c corev1.Container, volumes []corev1.Volume) {
	t.Helper()
	files := map[string]bool{}
	for _, v := range volumes {
		if v.Name != "actpass-identity" || v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ServiceAccountToken != nil {
				files["/var/run/actpass/identity/"+s.ServiceAccountToken.Path] = s.ServiceAccountToken.Path != "token" || s.ServiceAccountToken.Audience == "actpass"
			}
			if s.ConfigMap != nil && s.ConfigMap.Name == "kube-root-ca.crt" {
				files["/var/run/actpass/identity/"+s.ConfigMap.Items[0].Path] = true
			}
		}
	}
	env := map[string]string{}
	for _, v := range c.Env {
		env[v.Name] = v.Value
	}
	for _, name := range []string{"TOKEN_FILE", "CA_FILE", "BEARER_FILE"} {
		if file := env["ACTPASS_IDENTITY_SERVICE_ACCOUNT_"+name]; !files[file] {
			t.Errorf("%s is %q, and there is %v", name, file, files)
		}
	}
	if env["ACTPASS_IDENTITY_SERVICE_ACCOUNT_ISSUER"] != "https://issuer.example" || env["ACTPASS_IDENTITY_SERVICE_ACCOUNT_JWKS_URL"] == "" {
		t.Errorf("environment %v", env)
	}
}

// TestInjectedStore: an injected sidecar is given the Secret, and nobody else in the pod.
func TestInjectedStore(t *testing.T) {
	file, err := program()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(file, "inject", "--image", "actpass:1", "--store-secret", "shared", "--ca-secret", "our-ca", "--service-account-issuer", "https://issuer.example", "-f", "../../inject/testdata/deployment.in.yaml")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, o := range decode(t, "injected", future.ReplaceAll(out.Bytes(), nil)) {
		d, ok := o.(*appsv1.Deployment)
		if !ok {
			continue
		}
		spec := d.Spec.Template.Spec
		for i, c := range append(slices.Clone(spec.InitContainers), spec.Containers...) {
			if i == 0 && c.Name == "actpass" {
				found++
				sharesStore(t, "injected", "shared", c, spec.Volumes)
				provesAccount(t, c, spec.Volumes)
				if !slices.ContainsFunc(spec.Volumes, func(v corev1.Volume) bool {
					return v.Name == "actpass-ca" && v.Secret != nil && v.Secret.SecretName == "our-ca"
				}) {
					t.Errorf("no CA among %+v", spec.Volumes)
				}
				continue
			}
			for _, m := range c.VolumeMounts {
				if m.Name == "actpass-store" || m.Name == "actpass-ca" || m.Name == "actpass-identity" {
					t.Errorf("container %s is given what is the sidecar's alone: %s", c.Name, m.Name)
				}
			}
		}
	}
	if found == 0 {
		t.Error("nothing was injected")
	}
}
