package inject

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

type review struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Request    *request  `json:"request,omitempty"`
	Response   *response `json:"response,omitempty"`
}

type request struct {
	UID  string `json:"uid"`
	Kind struct {
		Group   string `json:"group"`
		Version string `json:"version"`
		Kind    string `json:"kind"`
	} `json:"kind"`
	SubResource string `json:"subResource"`
	Operation   string `json:"operation"`
	Object      object `json:"object"`
}

type response struct {
	UID       string   `json:"uid"`
	Allowed   bool     `json:"allowed"`
	Status    *status  `json:"status,omitempty"`
	PatchType string   `json:"patchType,omitempty"`
	Patch     []byte   `json:"patch,omitempty"`
	Warnings  []string `json:"warnings,omitempty"`
}

type status struct {
	Message string `json:"message"`
	Code    int    `json:"code"`
}

// Review answers an admission request (admission.k8s.io/v1, JSON): a pod that is
// created with the label gets a patch, one that cannot have a sidecar is refused
// with a sentence, all else is allowed untouched. namespace says that the pod's
// namespace has the label; the API server knows that, and calls accordingly. An
// error is about the request itself: it is none that can be answered.
func Review(body []byte, namespace bool, o Options) ([]byte, error) {
	var in review
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber() // a number is passed on as it is written
	if err := dec.Decode(&in); err != nil {
		return nil, fmt.Errorf("read the admission review: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("read the admission review: something follows it")
	}
	if in.APIVersion != "admission.k8s.io/v1" || in.Kind != "AdmissionReview" || in.Request == nil || in.Request.UID == "" {
		return nil, errors.New("read the admission review: it is no AdmissionReview of admission.k8s.io/v1 with a request")
	}
	answer := decide(in.Request, namespace, o)
	answer.UID = in.Request.UID
	return json.Marshal(review{APIVersion: in.APIVersion, Kind: in.Kind, Response: answer})
}

func decide(req *request, namespace bool, o Options) *response {
	pass := &response{Allowed: true}
	if req.Kind.Group != "" || req.Kind.Version != "v1" || req.Kind.Kind != "Pod" || req.SubResource != "" || req.Operation != "CREATE" {
		return pass
	}
	meta, _ := req.Object["metadata"].(object)
	labels, _ := meta["labels"].(object)
	if !Wanted(labels, namespace) {
		return pass
	}
	changed := clone(req.Object).(object)
	warnings, err := Pod(changed, o)
	if err != nil {
		return &response{Status: &status{Message: "the ActPass sidecar cannot be injected: " + err.Error(), Code: 422}}
	}
	pass.Warnings = warnings
	ops := diff(req.Object, changed, "")
	if len(ops) == 0 {
		return pass
	}
	patch, err := json.Marshal(ops)
	if err != nil {
		return &response{Status: &status{Message: "the patch cannot be written: " + err.Error(), Code: 500}}
	}
	pass.PatchType, pass.Patch = "JSONPatch", patch
	return pass
}
