package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// uploaded is the text that the uploads carry, of more than one chunk.
var uploaded = strings.Repeat("amount=4900&note=a b\r\n", 9000)

// chunked is a PUT whose body is signed chunk by chunk as it goes, which is how
// the SDKs for Java and C++ stream.
func chunked(key, text string, now time.Time) (*http.Request, []byte, error) {
	r, err := http.NewRequest(http.MethodPut, "https://acme.s3."+s3Region+".amazonaws.com/"+key, nil)
	if err != nil {
		return nil, nil, err
	}
	r.Header.Set("Content-Encoding", "aws-chunked")
	r.Header.Set("Content-Type", "text/plain")
	r.Header.Set("X-Amz-Content-Sha256", streamedPayload)
	r.Header.Set("X-Amz-Decoded-Content-Length", fmt.Sprint(len(text)))
	const size = 64 << 10
	chunks := []string{}
	for rest := text; ; {
		n := min(size, len(rest))
		chunks = append(chunks, rest[:n])
		if rest = rest[n:]; n == 0 {
			break
		}
	}
	for _, c := range chunks {
		r.ContentLength += int64(len(fmt.Sprintf("%x;chunk-signature=", len(c))) + 2*sha256.Size + 2 + len(c) + 2)
	}
	if err := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true }).
		SignHTTP(context.Background(), s3Credentials, r, streamedPayload, "s3", s3Region, now); err != nil {
		return nil, nil, err
	}
	_, before, _ := strings.Cut(r.Header.Get("Authorization"), "Signature=")
	date := r.Header.Get("X-Amz-Date")
	scope := []string{date[:8], s3Region, "s3", "aws4_request"}
	var body bytes.Buffer
	for _, c := range chunks {
		before = chunkSignature(s3Secret, date, scope, before, []byte(c))
		fmt.Fprintf(&body, "%x;chunk-signature=%s\r\n%s\r\n", len(c), before, c)
	}
	if int64(body.Len()) != r.ContentLength {
		return nil, nil, fmt.Errorf("%d bytes were signed, and there are %d", r.ContentLength, body.Len())
	}
	r.Body = io.NopCloser(bytes.NewReader(body.Bytes()))
	return r, body.Bytes(), nil
}

// awsUploads makes the uploads in a process of its own. The value of each is the
// hash of the bytes that went out.
func awsUploads() map[string]attempt {
	ctx, bucket, c := context.Background(), aws.String("acme"), s3Client()
	came := map[string]attempt{}
	send := func(name string, r *http.Request, body []byte, err error) {
		if err != nil {
			came[name] = attempt{Message: err.Error()}
			return
		}
		sum := sha256.Sum256(body)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			came[name] = attempt{Message: err.Error()}
			return
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		came[name] = attempt{OK: resp.StatusCode == http.StatusOK, Status: resp.StatusCode, Value: hex.EncodeToString(sum[:]), Message: string(text)}
	}
	presigned := func(name, key string) {
		signed, err := s3.NewPresignClient(c).PresignPutObject(ctx, &s3.PutObjectInput{Bucket: bucket, Key: aws.String(key), ContentType: aws.String("text/plain")})
		var r *http.Request
		if err == nil {
			r, err = http.NewRequest(http.MethodPut, signed.URL, strings.NewReader(uploaded))
		}
		if err == nil {
			for k, v := range signed.SignedHeader {
				if k != "Host" {
					r.Header[k] = v
				}
			}
			if r.URL.Query().Get("X-Amz-Signature") == "" {
				err = errors.New("the URL is not signed")
			}
		}
		send(name, r, []byte(uploaded), err)
	}
	streamed := func(name, key string) {
		r, body, err := chunked(key, uploaded, time.Now())
		send(name, r, body, err)
	}
	presigned("presigned", "reports/presigned b+c=&(1).txt")
	streamed("chunked", "reports/chunked.txt")
	presigned("presigned elsewhere", "secret/presigned.txt")
	streamed("chunked elsewhere", "secret/chunked.txt")
	for name, key := range map[string]string{"read presigned": "reports/presigned b+c=&(1).txt", "read chunked": "reports/chunked.txt"} {
		got, err := c.GetObject(ctx, &s3.GetObjectInput{Bucket: bucket, Key: aws.String(key)})
		if err != nil {
			came[name] = attempt{Message: err.Error()}
			continue
		}
		b, err := io.ReadAll(got.Body)
		came[name] = attempt{OK: err == nil && string(b) == uploaded, Value: "the upload", Message: fmt.Sprintf("%d bytes", len(b))}
	}
	return came
}

// TestS3Uploads: an upload by a URL that was signed beforehand, and one that is
// signed chunk by chunk, arrive byte for byte, with signatures that hold.
func TestS3Uploads(t *testing.T) {
	t.Parallel()
	u, sc := newS3(t)
	self, err := os.Executable()
	must(t, err)
	call := sc.around(t, []string{"E2E_AWS_SDK=uploads"}, self)
	if code := call.wait(t); code != 0 {
		t.Fatalf("exit code %d\n%s\n%s", code, &call.stdout, &call.stderr)
	}
	var came map[string]attempt
	must(t, json.Unmarshal(call.stdout.Bytes(), &came))
	allowed(t, came, "read presigned", "the upload")
	allowed(t, came, "read chunked", "the upload")
	saw := u.requestsSeen()
	if len(saw) != 4 {
		t.Fatalf("the upstream saw %d calls, want 4; came %+v", len(saw), came)
	}
	for i, name := range []string{"presigned", "chunked"} {
		sum := sha256.Sum256(saw[i].Body)
		allowed(t, came, name, hex.EncodeToString(sum[:]))
	}
	if !strings.Contains(saw[0].Target, "X-Amz-Signature=") || saw[1].Header.Get("Content-Encoding") != "aws-chunked" || saw[1].Header.Get("X-Amz-Content-Sha256") != streamedPayload {
		t.Errorf("the upstream saw %s and %v", saw[0].Target, saw[1].Header)
	}
	for _, name := range []string{"presigned elsewhere", "chunked elsewhere"} {
		if a := came[name]; a.OK || a.Status != http.StatusForbidden || !strings.Contains(a.Message, "ActPass blocked this call and did not send it") {
			t.Errorf("%s: %+v, want 403", name, a)
		}
	}
	sc.run()
	sc.admin = sc.key("--name", "admin", "--role", "admin")
	t.Cleanup(sc.stop)
	events := sc.events()
	recorded(t, events, "aws.s3.object.write", "allow", "s3.reports", "aws:s3:acme/reports/chunked.txt", map[string]any{"key": "reports/chunked.txt"})
	recorded(t, events, "aws.s3.object.write", "deny", "s3.not_agreed", "aws:s3:acme/secret/presigned.txt", nil)
	recorded(t, events, "aws.s3.object.write", "deny", "s3.not_agreed", "aws:s3:acme/secret/chunked.txt", nil)
	if len(events) != 6 {
		t.Errorf("%d events, want 6", len(events))
	}
	for _, e := range events {
		text, err := json.Marshal(e)
		must(t, err)
		for _, secret := range []string{"X-Amz-Signature", "X-Amz-Credential", "AKIDEXAMPLE"} {
			if bytes.Contains(text, []byte(secret)) {
				t.Errorf("the record holds %s: %s", secret, text)
			}
		}
	}
}

// TestSigV4Uploads sees the checker refuse what is not as it was signed.
func TestSigV4Uploads(t *testing.T) {
	arrived := func(change func(r *http.Request, body []byte) []byte) error {
		r, body, err := chunked("reports/a.txt", uploaded, time.Now())
		must(t, err)
		r.RequestURI, r.Host = r.URL.RequestURI(), r.URL.Host
		r.Body = io.NopCloser(bytes.NewReader(change(r, body)))
		return sigV4(r, s3Secret)
	}
	if err := arrived(func(_ *http.Request, b []byte) []byte { return b }); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(r *http.Request, body []byte) []byte{
		"a byte of the second chunk": func(_ *http.Request, b []byte) []byte { b[70_000]++; return b },
		"the last chunk is missing":  func(_ *http.Request, b []byte) []byte { return b[:len(b)-87] },
		"plain":                      func(_ *http.Request, _ []byte) []byte { return []byte(uploaded) },
		"another length":             func(r *http.Request, b []byte) []byte { r.Header.Set("X-Amz-Decoded-Content-Length", "1"); return b },
	} {
		if arrived(change) == nil {
			t.Errorf("%s: not refused", name)
		}
	}
	signed, err := s3.NewPresignClient(s3Client()).PresignPutObject(context.Background(), &s3.PutObjectInput{Bucket: aws.String("acme"), Key: aws.String("a")})
	must(t, err)
	for change, want := range map[string]bool{"": true, "&x=1": false} {
		r, err := http.NewRequest(http.MethodPut, signed.URL+change, strings.NewReader("x"))
		must(t, err)
		r.RequestURI = r.URL.RequestURI()
		if err := sigV4(r, s3Secret); (err == nil) != want {
			t.Errorf("presigned%s: %v", change, err)
		}
	}
}
