package deploytest

import "testing"

// TestWebhookCertificateRenews: what the API server is told to believe stays the same
// when the webhook's certificate is renewed. A kubelet takes a minute to write a new
// one; were it a root of its own, no labelled pod could be created meanwhile.
func TestWebhookCertificateRenews(t *testing.T) {
	issuers, certificates := map[string]*issuer{}, map[string]*certificate{}
	for _, o := range decode(t, "manifests", render(t, chart+"/ci/manifests.yaml")) {
		switch o := o.(type) {
		case *issuer:
			issuers[o.Name] = o
		case *certificate:
			certificates[o.Name] = o
		}
	}
	leaf := certificates["actpass-webhook"]
	if leaf == nil || leaf.Spec.SecretName != "actpass-webhook-tls" || leaf.Spec.IsCA {
		t.Fatalf("the webhook's certificate is %+v", leaf)
	}
	by := issuers[leaf.Spec.IssuerRef.Name]
	if by == nil || by.Spec.CA == nil || by.Spec.SelfSigned != nil {
		t.Fatalf("it is issued by %+v", by)
	}
	for _, ca := range certificates {
		if ca.Spec.SecretName == by.Spec.CA.SecretName {
			root := issuers[ca.Spec.IssuerRef.Name]
			if !ca.Spec.IsCA || ca.Spec.Duration != "87600h" || root == nil || root.Spec.SelfSigned == nil {
				t.Errorf("its CA is %+v, issued by %+v", ca, root)
			}
			return
		}
	}
	t.Errorf("there is no CA in the Secret %s", by.Spec.CA.SecretName)
}
