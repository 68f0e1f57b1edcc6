package inject

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files")

var options = Options{Image: "actpass:test", UID: DefaultUID}

func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.in.*")
	if err != nil || len(files) < 3 {
		t.Fatalf("%d inputs, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			in, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			out, warnings, err := Manifests(in, options)
			if err != nil {
				t.Fatal(err)
			}
			golden := strings.Replace(file, ".in.", ".out.", 1)
			said := strings.Join(warnings, "\n") + "\n"
			if *update {
				_ = os.WriteFile(golden, out, 0o644)
				_ = os.WriteFile(golden+".warnings", []byte(said), 0o644)
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), string(out)); d != "" {
				t.Errorf("%s (-want +got; run with -update if it is meant):\n%s", golden, d)
			}
			if want, _ := os.ReadFile(golden + ".warnings"); string(want) != said {
				t.Errorf("warnings:\n%s\nwant:\n%s", said, want)
			}
			again, _, err := Manifests(out, options)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(out), string(again)); d != "" {
				t.Errorf("a second injection changes it:\n%s", d)
			}
		})
	}
}

func TestUntouched(t *testing.T) {
	for _, in := range []string{
		"", "\n", "---\n", "# only a comment\n", "a: 1\n---\nb:   [1,2]\n--- # x\nc: |\n  ---\n...\n",
		"kind: Pod\nspec: {containers: [{name: a}]}\n",
		"kind: Pod\nmetadata: {labels: {actpass.dev/inject: disabled}}\nspec: {containers: [{name: a}]}\n",
		"kind: ConfigMap\nmetadata: {labels: {actpass.dev/inject: enabled}}\r\n---\r\nkind: Pod\r\n",
		"kind: Namespace\nmetadata: {name: a, labels: {actpass.dev/inject: enabled}}\n---\nkind: Pod\nmetadata: {namespace: b}\nspec: {containers: [{name: a}]}\n",
	} {
		out, _, err := Manifests([]byte(in), options)
		if err != nil || string(out) != in {
			t.Errorf("%q became %q, %v", in, out, err)
		}
	}
}

func pod(t *testing.T, spec string, annotations ...string) object {
	t.Helper()
	var p object
	dec := json.NewDecoder(strings.NewReader(`{"metadata":{},"spec":` + spec + `}`))
	dec.UseNumber()
	if err := dec.Decode(&p); err != nil {
		t.Fatal(err)
	}
	a := object{}
	for i := 0; i < len(annotations); i += 2 {
		a[annotations[i]] = annotations[i+1]
	}
	p["metadata"] = object{"annotations": a}
	return p
}

const plainPod = `{"containers":[{"name":"a"}],"securityContext":{"runAsNonRoot":true}}`

func TestRefused(t *testing.T) {
	enforce := options
	enforce.Mode, enforce.Redirect = "enforce", true
	for _, c := range []struct {
		name string
		p    object
		o    Options
		want string
	}{
		{"host network", pod(t, `{"hostNetwork":true,"containers":[{"name":"a"}]}`), options, "hostNetwork"},
		{"windows", pod(t, `{"os":{"name":"windows"},"containers":[{"name":"a"}]}`), options, "Windows"},
		{"no containers", pod(t, `{}`), options, "no containers"},
		{"a container of our name", pod(t, `{"containers":[{"name":"actpass"}]}`), options, "another name"},
		{"a mount of ours", pod(t, `{"containers":[{"name":"a","volumeMounts":[{"name":"x","mountPath":"/var/run/actpass/trust/"}]}]}`), options, "is mounted"},
		{"our keys", pod(t, `{"containers":[{"name":"a","volumeMounts":[{"name":"actpass-data","mountPath":"/x"}]}]}`), options, "sidecar's own"},
		{"the database's password", pod(t, `{"containers":[{"name":"a","volumeMounts":[{"name":"actpass-store","mountPath":"/x"}]}]}`), options, "sidecar's own"},
		{"the sidecar's token", pod(t, `{"containers":[{"name":"a","volumeMounts":[{"name":"actpass-identity","mountPath":"/x"}]}]}`), options, "sidecar's own"},
		{"the CA's key", pod(t, `{"containers":[{"name":"a","volumeMounts":[{"name":"actpass-ca","mountPath":"/x"}]}]}`), options, "sidecar's own"},
		{"a bad mode", pod(t, plainPod, AnnotationMode, "off"), options, "none of"},
		{"a looser mode", pod(t, plainPod, AnnotationMode, "warn"), enforce, "looser"},
		{"no redirect", pod(t, plainPod, AnnotationRedirect, "false"), enforce, "every pod here is redirected"},
		{"a bad redirect", pod(t, plainPod, AnnotationRedirect, "maybe"), options, "neither"},
		{"the sidecar's uid", pod(t, `{"containers":[{"name":"a"}],"securityContext":{"runAsUser":64365}}`), enforce, "would pass"},
		{"no image", pod(t, plainPod), Options{UID: 1}, "image"},
		{"root", pod(t, plainPod), Options{Image: "i"}, "uid of its own"},
		{"not a list", pod(t, `{"containers":{"a":1}}`), options, "not a list"},
	} {
		if _, err := Pod(c.p, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// TestForcedIsNotSaidLightly: the annotation says forced only where no container
// can get round the rules.
func TestForcedIsNotSaidLightly(t *testing.T) {
	for spec, want := range map[string]string{
		plainPod: forced,
		`{"containers":[{"name":"a","securityContext":{"runAsUser":1000}}]}`:                                                                                     forced,
		`{"containers":[{"name":"a","securityContext":{"capabilities":{"drop":["ALL"]}}}]}`:                                                                      forced,
		`{"containers":[{"name":"a"}]}`:                                                                                                                          advisory,
		`{"containers":[{"name":"a","securityContext":{"runAsUser":0}}],"securityContext":{"runAsUser":1000}}`:                                                   advisory,
		`{"containers":[{"name":"a","securityContext":{"privileged":true}}],"securityContext":{"runAsNonRoot":true}}`:                                            advisory,
		`{"containers":[{"name":"a","securityContext":{"capabilities":{"add":["CAP_NET_ADMIN"]}}}],"securityContext":{"runAsUser":9}}`:                           advisory,
		`{"containers":[{"name":"a","securityContext":{"capabilities":{"add":["setuid"]}}}],"securityContext":{"runAsUser":9}}`:                                  advisory,
		`{"containers":[{"name":"a"}],"initContainers":[{"name":"i","securityContext":{"runAsUser":0,"runAsNonRoot":false}}],"securityContext":{"runAsUser":9}}`: advisory,
	} {
		p := pod(t, spec, AnnotationRedirect, "true")
		warnings, err := Pod(p, options)
		if err != nil {
			t.Fatal(spec, err)
		}
		got := p["metadata"].(object)["annotations"].(object)[AnnotationStatus]
		if got != want || (want == advisory) != (len(warnings) > 0) {
			t.Errorf("%s: %v, want %s; warnings %q", spec, got, want, warnings)
		}
	}
	p := pod(t, plainPod)
	if _, err := Pod(p, options); err != nil || p["metadata"].(object)["annotations"].(object)[AnnotationStatus] != advisory {
		t.Errorf("without a redirect: %v %v", p["metadata"], err)
	}
}

// TestForged: a pod that brings a container of our name gets the real one.
func TestForged(t *testing.T) {
	p := pod(t, `{"initContainers":[{"name":"first"},{"name":"actpass","image":"evil","command":["sleep"]}],"containers":[{"name":"a"}]}`)
	if _, err := Pod(p, options); err != nil {
		t.Fatal(err)
	}
	list := p["spec"].(object)["initContainers"].([]any)
	first := list[0].(object)
	if len(list) != 2 || first["name"] != "actpass" || first["image"] != "actpass:test" || first["command"] != nil {
		t.Errorf("init containers: %v", list)
	}
}

func admission(t *testing.T, object string) []byte {
	t.Helper()
	return []byte(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u1","kind":{"group":"","version":"v1","kind":"Pod"},"operation":"CREATE","object":` + object + `}}`)
}

func answer(t *testing.T, body []byte, namespace bool) response {
	t.Helper()
	b, err := Review(body, namespace, options)
	if err != nil {
		t.Fatal(err)
	}
	var out review
	if err := json.Unmarshal(b, &out); err != nil || out.Response == nil || out.Response.UID != "u1" {
		t.Fatalf("%s %v", b, err)
	}
	return *out.Response
}

func TestReview(t *testing.T) {
	labelled := `{"metadata":{"labels":{"actpass.dev/inject":"enabled"}},"spec":{"priority":9007199254740993,"containers":[{"name":"a","image":"i"}]}}`
	r := answer(t, admission(t, labelled), false)
	if !r.Allowed || r.PatchType != "JSONPatch" {
		t.Fatalf("%+v", r)
	}
	var ops []Op
	if err := json.Unmarshal(r.Patch, &ops); err != nil {
		t.Fatal(err)
	}
	for _, op := range ops {
		if op.Op == "remove" || strings.HasPrefix(op.Path, "/spec/priority") {
			t.Errorf("%s %s was not ours to change", op.Op, op.Path)
		}
	}
	unlabelled := `{"metadata":{},"spec":{"containers":[{"name":"a"}]}}`
	if r := answer(t, admission(t, unlabelled), false); !r.Allowed || r.Patch != nil {
		t.Errorf("without the label: %+v", r)
	}
	if r := answer(t, admission(t, unlabelled), true); !r.Allowed || r.Patch == nil {
		t.Errorf("in a labelled namespace: %+v", r)
	}
	out := `{"metadata":{"labels":{"actpass.dev/inject":"disabled"}},"spec":{"containers":[{"name":"a"}]}}`
	if r := answer(t, admission(t, out), true); !r.Allowed || r.Patch != nil {
		t.Errorf("opted out: %+v", r)
	}
	bad := `{"metadata":{"labels":{"actpass.dev/inject":"enabled"}},"spec":{"hostNetwork":true,"containers":[{"name":"a"}]}}`
	if r := answer(t, admission(t, bad), false); r.Allowed || r.Status == nil || !strings.Contains(r.Status.Message, "hostNetwork") {
		t.Errorf("host network: %+v", r)
	}
	update := bytes.Replace(admission(t, labelled), []byte("CREATE"), []byte("UPDATE"), 1)
	if r := answer(t, update, false); !r.Allowed || r.Patch != nil {
		t.Errorf("an update: %+v", r)
	}
	for _, body := range []string{"", "{}", `{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","request":{"uid":"u"}}`, string(admission(t, labelled)) + "{}"} {
		if b, err := Review([]byte(body), false, options); err == nil {
			t.Errorf("%.40q is answered with %s", body, b)
		}
	}
}
