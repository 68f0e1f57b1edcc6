package proxy

import (
	"encoding/json"
	"encoding/xml"
	"net/http"
	"testing"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// Where each provider's SDKs look for the sentence, and where the decision stands.
func TestRefusalShapes(t *testing.T) {
	const sentence = "ActPass blocked this call."
	for _, c := range []struct {
		shape, contentType string
		sentence, decision []string // members on the way
	}{
		{"stripe", "application/json", []string{"error", "message"}, []string{"error", "actpass"}},
		{"openai", "application/json", []string{"error", "message"}, []string{"error", "actpass"}},
		{"anthropic", "application/json", []string{"error", "message"}, []string{"error", "actpass"}},
		{"github", "application/json", []string{"message"}, []string{"actpass"}},
		{"jsonrpc", "application/json", []string{"error", "message"}, []string{"error", "data"}},
		{"aws-json", "application/json", []string{"message"}, []string{"actpass"}},
		{"", "application/problem+json", []string{"detail"}, nil},
		{"", "application/problem+json", []string{"error", "message"}, nil},
		{"not known", "application/problem+json", []string{"detail"}, nil},
	} {
		a := render(&gate.Refusal{
			Status: http.StatusForbidden, Shape: c.shape, Sentence: sentence, Decision: evidence.Decision{ReasonCode: "a.reason"},
		})
		at := func(way []string) any {
			var v any
			if err := json.Unmarshal(a.body, &v); err != nil {
				t.Fatalf("%s: %v", c.shape, err)
			}
			for _, name := range way {
				m, _ := v.(map[string]any)
				v = m[name]
			}
			return v
		}
		if a.status != http.StatusForbidden || a.header.Get("Content-Type") != c.contentType {
			t.Errorf("%s: %d %s", c.shape, a.status, a.header.Get("Content-Type"))
		}
		if got := at(c.sentence); got != sentence {
			t.Errorf("%s: %v is %v in %s", c.shape, c.sentence, got, a.body)
		}
		if got := at(append(c.decision[:len(c.decision):len(c.decision)], "reason_code")); got != "a.reason" {
			t.Errorf("%s: the reason in %v is %v in %s", c.shape, c.decision, got, a.body)
		}
		if got := at(append(c.decision[:len(c.decision):len(c.decision)], "decision")); got != "deny" {
			t.Errorf("%s: the decision in %v is %v in %s", c.shape, c.decision, got, a.body)
		}
	}
}

// In XML, the SDKs of AWS look for the sentence at Error>Message, those of EC2 at
// Errors>Error>Message, and those of S3 at Message, below whatever root.
func TestRefusalXML(t *testing.T) {
	const sentence = `ActPass blocked <this> call & "that".`
	for shape, ways := range map[string][]string{"aws-rest": {"Message"}, "aws-query": {"Error>Message", "Errors>Error>Message"}} {
		a := render(&gate.Refusal{Status: http.StatusForbidden, Shape: shape, Sentence: sentence, Decision: evidence.Decision{ReasonCode: "a.reason", EvidenceEventID: "ev_1"}})
		if a.status != http.StatusForbidden || a.header.Get("Content-Type") != "application/xml" || a.header.Get("X-Amzn-Requestid") != "ev_1" {
			t.Errorf("%s: %d %v", shape, a.status, a.header)
		}
		var s3 struct{ Code, Message string }
		var query struct {
			Code    string `xml:"Error>Code"`
			Message string `xml:"Error>Message"`
		}
		var ec2 struct {
			Code    string `xml:"Errors>Error>Code"`
			Message string `xml:"Errors>Error>Message"`
		}
		for _, v := range []any{&s3, &query, &ec2} {
			if err := xml.Unmarshal(a.body, v); err != nil {
				t.Fatalf("%s: %v", shape, err)
			}
		}
		found := map[string][2]string{"Message": {s3.Code, s3.Message}, "Error>Message": {query.Code, query.Message}, "Errors>Error>Message": {ec2.Code, ec2.Message}}
		for _, way := range ways {
			if found[way] != [2]string{"a.reason", sentence} {
				t.Errorf("%s: %s is %q in %s", shape, way, found[way], a.body)
			}
		}
	}
}
