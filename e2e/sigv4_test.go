package e2e

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// sigV4 checks the signature of a request as S3 does (AWS Signature Version 4,
// header form), over the bytes of the target as they came.
func sigV4(r *http.Request, secret string) error {
	fields := map[string]string{}
	algorithm, rest, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if algorithm != "AWS4-HMAC-SHA256" {
		return fmt.Errorf("the request is not signed: %q", algorithm)
	}
	for part := range strings.SplitSeq(rest, ",") {
		k, v, _ := strings.Cut(strings.TrimSpace(part), "=")
		fields[k] = v
	}
	path, query, _ := strings.Cut(r.RequestURI, "?")
	params := strings.Split(query, "&")
	slices.Sort(params)
	for i, p := range params {
		if p != "" && !strings.Contains(p, "=") {
			params[i] = p + "="
		}
	}
	var head strings.Builder
	for name := range strings.SplitSeq(fields["SignedHeaders"], ";") {
		value := strings.Join(r.Header.Values(name), ",")
		switch name {
		case "host":
			value = r.Host
		case "content-length":
			value = strconv.FormatInt(r.ContentLength, 10)
		}
		fmt.Fprintf(&head, "%s:%s\n", name, strings.Join(strings.Fields(value), " "))
	}
	payload := r.Header.Get("X-Amz-Content-Sha256")
	if len(payload) == 2*sha256.Size {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != payload {
			return fmt.Errorf("the body is not the one that was signed")
		}
	}
	canonical := strings.Join([]string{r.Method, path, strings.Join(params, "&"), head.String(), fields["SignedHeaders"], payload}, "\n")
	scope := strings.Split(fields["Credential"], "/")
	if len(scope) != 5 {
		return fmt.Errorf("the credential scope %q", fields["Credential"])
	}
	sum := sha256.Sum256([]byte(canonical))
	text := strings.Join([]string{algorithm, r.Header.Get("X-Amz-Date"), strings.Join(scope[1:], "/"), hex.EncodeToString(sum[:])}, "\n")
	key := []byte("AWS4" + secret)
	for _, part := range append(scope[1:], text) {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(part))
		key = mac.Sum(nil)
	}
	if want := hex.EncodeToString(key); want != fields["Signature"] {
		return fmt.Errorf("the signature does not fit this canonical request:\n%s", canonical)
	}
	return nil
}

// TestSigV4 holds the checker to AWS' own example (get-vanilla of its test suite),
// and sees it refuse another path.
func TestSigV4(t *testing.T) {
	r, err := http.NewRequest("GET", "https://example.amazonaws.com/", nil)
	must(t, err)
	r.RequestURI = "/"
	r.Header.Set("X-Amz-Date", "20150830T123600Z")
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host;x-amz-date, Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31")
	r.Header.Set("X-Amz-Content-Sha256", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
	r.Body = io.NopCloser(strings.NewReader(""))
	const secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	if err := sigV4(r, secret); err != nil {
		t.Error(err)
	}
	r.RequestURI = "/x"
	if sigV4(r, secret) == nil {
		t.Error("another path has the same signature")
	}
}
