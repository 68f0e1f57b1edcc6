package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

const (
	s3Secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
	s3Region = "eu-west-1"
	// A key with all that clients escape, and a segment without a name.
	s3Key = "reports//2024/a b+c=ü&(1).txt"
)

var s3Credentials = aws.Credentials{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: s3Secret}

// As for stripe-go: the test binary is also the program that uses the SDK.
func init() {
	if os.Getenv("E2E_AWS_SDK") == "" {
		return
	}
	came := awsSDK
	if os.Getenv("E2E_AWS_SDK") == "uploads" {
		came = awsUploads
	}
	if err := json.NewEncoder(os.Stdout).Encode(came()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func s3Client() *s3.Client {
	return s3.New(s3.Options{Region: s3Region, Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return s3Credentials, nil
	})})
}

// awsSDK makes some calls with aws-sdk-go-v2 as it comes.
func awsSDK() map[string]attempt {
	ctx, bucket, key := context.Background(), aws.String("acme"), aws.String(s3Key)
	c := s3Client()
	came := map[string]attempt{}
	note := func(name string, value any, err error) {
		a := attempt{OK: err == nil, Value: value}
		if err != nil {
			a.Message = err.Error()
		}
		if re := (*awshttp.ResponseError)(nil); errors.As(err, &re) {
			a.Status = re.HTTPStatusCode()
		}
		came[name] = a
	}
	_, err := c.PutObject(ctx, &s3.PutObjectInput{Bucket: bucket, Key: key, Body: strings.NewReader("hello"), ContentType: aws.String("text/plain")})
	note("put", nil, err)
	text := ""
	got, err := c.GetObject(ctx, &s3.GetObjectInput{Bucket: bucket, Key: key})
	if err == nil {
		var b []byte
		b, err = io.ReadAll(got.Body)
		text = string(b)
	}
	note("get", text, err)
	list, err := c.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: bucket, Prefix: aws.String("reports/")})
	first := ""
	if err == nil && len(list.Contents) == 1 {
		first = aws.ToString(list.Contents[0].Key)
	}
	note("list", first, err)
	_, err = c.PutObject(ctx, &s3.PutObjectInput{Bucket: bucket, Key: aws.String("secret/x"), Body: strings.NewReader("x")})
	note("elsewhere", nil, err)
	_, err = c.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: bucket, Key: key})
	note("delete", nil, err)
	_, err = c.DeleteBucketPolicy(ctx, &s3.DeleteBucketPolicyInput{Bucket: bucket})
	note("policy", nil, err)
	return came
}

// newS3 is a local S3 that checks every signature, and a sidecar, not started, by
// whose policy objects below reports/ may be written and read.
func newS3(t *testing.T) (*upstream, *sidecar) {
	t.Helper()
	host := "acme.s3." + s3Region + ".amazonaws.com"
	backend := s3mem.New()
	must(t, backend.CreateBucket("acme"))
	s3server := gofakes3.New(backend, gofakes3.WithHostBucketBase("s3."+s3Region+".amazonaws.com")).Server()
	u := newFront(t, []string{host}, func(w http.ResponseWriter, r *http.Request) {
		if err := sigV4(r, s3Secret); err != nil {
			t.Errorf("%s %s: %v", r.Method, r.RequestURI, err)
			http.Error(w, "SignatureDoesNotMatch", http.StatusForbidden)
			return
		}
		s3server.ServeHTTP(w, r)
	})
	sc := &sidecar{t: t, dir: t.TempDir()}
	must(t, os.WriteFile(filepath.Join(sc.dir, "policy.yaml"), []byte(`policies:
  - name: storage
    version: 1
    tools: ["aws.s3.*"]
    rules:
      - { name: reports, when: 'tool in ["aws.s3.object.write", "aws.s3.object.retrieve"] && args.bucket == "acme" && args.region == "eu-west-1" && has(args.key) && args.key.startsWith("reports/")', decision: allow, reason_code: s3.reports }
      - { name: lists, when: tool == "aws.s3.object.list", decision: allow, reason_code: s3.list }
      - { name: the_rest, decision: deny, reason_code: s3.not_agreed }
`), 0o644))
	sc.config = filepath.Join(sc.dir, "config.yaml")
	must(t, os.WriteFile(sc.config, fmt.Appendf(nil, `mode: enforce
identity: { tenant_id: acme, agent_id: support_agent }
listen: { proxy: 127.0.0.1:0, reverse: 127.0.0.1:0, api: 127.0.0.1:0 }
mapping: { packs: [aws] }
policy: { files: [./policy.yaml] }
upstream:
  allow_private: [127.0.0.0/8]
  ca_file: %s
  connect_to:
    - { host: %s, port: 443, address: %q }
`, u.caFile, host, u.tls), 0o644))
	return u, sc
}

// TestAWSSDK: signed requests arrive with a valid signature, whatever the key is
// called, and what policy denies does not arrive.
func TestAWSSDK(t *testing.T) {
	t.Parallel()
	u, sc := newS3(t)
	self, err := os.Executable()
	must(t, err)
	call := sc.around(t, []string{"E2E_AWS_SDK=1"}, self)
	if code := call.wait(t); code != 0 {
		t.Fatalf("exit code %d\n%s\n%s", code, &call.stdout, &call.stderr)
	}
	var came map[string]attempt
	must(t, json.Unmarshal(call.stdout.Bytes(), &came))
	allowed(t, came, "put", nil)
	allowed(t, came, "get", "hello")
	allowed(t, came, "list", s3Key)
	for _, name := range []string{"elsewhere", "delete", "policy"} {
		if a := came[name]; a.OK || a.Status != http.StatusForbidden {
			t.Errorf("%s: %+v, want 403", name, a)
		}
	}
	if saw := u.requestsSeen(); len(saw) != 3 {
		t.Errorf("the upstream saw %d calls, want 3: %+v", len(saw), saw)
	}
	sc.run()
	sc.admin = sc.key("--name", "admin", "--role", "admin")
	t.Cleanup(sc.stop)
	events := sc.events()
	recorded(t, events, "aws.s3.object.write", "deny", "s3.not_agreed", "aws:s3:acme/secret/x", map[string]any{"key": "secret/x", "region": s3Region, "service": "s3"})
	recorded(t, events, "aws.s3.policy.write", "deny", "s3.not_agreed", "aws:s3:acme", nil)
	if len(events) != 6 {
		t.Errorf("%d events, want 6: a refusal is not to be retried", len(events))
	}
}
