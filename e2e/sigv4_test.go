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

// sigV4 checks the signature of a request as S3 does (AWS Signature Version 4), in
// its header or, presigned, in its query, over the bytes of the target as they
// came; and those of the chunks of a body that is signed as it is streamed.
func sigV4(r *http.Request, secret string) error {
	fields := map[string]string{}
	algorithm, rest, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	date, payload := r.Header.Get("X-Amz-Date"), r.Header.Get("X-Amz-Content-Sha256")
	path, query, _ := strings.Cut(r.RequestURI, "?")
	params := strings.Split(query, "&")
	if q := r.URL.Query(); q.Has("X-Amz-Signature") {
		algorithm, rest = q.Get("X-Amz-Algorithm"), ""
		date, payload = q.Get("X-Amz-Date"), "UNSIGNED-PAYLOAD"
		for _, name := range []string{"Credential", "SignedHeaders", "Signature"} {
			fields[name] = q.Get("X-Amz-" + name)
		}
		params = slices.DeleteFunc(params, func(p string) bool { return strings.HasPrefix(p, "X-Amz-Signature=") })
	}
	if algorithm != "AWS4-HMAC-SHA256" {
		return fmt.Errorf("the request is not signed: %q", algorithm)
	}
	for part := range strings.SplitSeq(rest, ",") {
		k, v, _ := strings.Cut(strings.TrimSpace(part), "=")
		fields[k] = v
	}
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
	text := strings.Join([]string{algorithm, date, strings.Join(scope[1:], "/"), hex.EncodeToString(sum[:])}, "\n")
	if want := signedV4(secret, scope[1:], text); want != fields["Signature"] {
		return fmt.Errorf("the signature does not fit this canonical request:\n%s", canonical)
	}
	if payload != streamedPayload {
		return nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return sigV4Chunks(body, secret, date, scope[1:], fields["Signature"], r.Header.Get("X-Amz-Decoded-Content-Length"))
}

// signedV4 signs a text with the key of a scope.
func signedV4(secret string, scope []string, text string) string {
	key := []byte("AWS4" + secret)
	for _, part := range append(slices.Clone(scope), text) {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(part))
		key = mac.Sum(nil)
	}
	return hex.EncodeToString(key)
}

// streamedPayload is what stands for the hash of a body whose chunks are signed,
// each over the signature before it (Amazon S3 API Reference, "Signature
// calculations for the Authorization header: transferring a payload in multiple
// chunks").
const streamedPayload = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"

func chunkSignature(secret, date string, scope []string, before string, chunk []byte) string {
	nothing, sum := sha256.Sum256(nil), sha256.Sum256(chunk)
	return signedV4(secret, scope, strings.Join([]string{
		"AWS4-HMAC-SHA256-PAYLOAD", date, strings.Join(scope, "/"), before, hex.EncodeToString(nothing[:]), hex.EncodeToString(sum[:]),
	}, "\n"))
}

func sigV4Chunks(body []byte, secret, date string, scope []string, before, decoded string) error {
	total := 0
	for n := 1; ; n++ {
		line, rest, ok := bytes.Cut(body, []byte("\r\n"))
		size, signature, signed := strings.Cut(string(line), ";chunk-signature=")
		length, err := strconv.ParseUint(size, 16, 31)
		if !ok || !signed || err != nil || uint64(len(rest)) < length+2 {
			return fmt.Errorf("chunk %d begins with %q", n, line)
		}
		chunk := rest[:length]
		if want := chunkSignature(secret, date, scope, before, chunk); want != signature {
			return fmt.Errorf("the signature of chunk %d does not fit", n)
		}
		if !bytes.HasPrefix(rest[length:], []byte("\r\n")) {
			return fmt.Errorf("chunk %d does not end", n)
		}
		total, before, body = total+len(chunk), signature, rest[length+2:]
		if length == 0 {
			break
		}
	}
	if len(body) != 0 || strconv.Itoa(total) != decoded {
		return fmt.Errorf("the chunks hold %d bytes and %d after them, want %s", total, len(body), decoded)
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
