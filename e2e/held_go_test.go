package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stripe/stripe-go/v82"
)

// As for stripe-go alone: the test binary is also the program that uses the
// SDKs of this language. It speaks as node/held.mjs does.
func init() {
	name := os.Getenv("E2E_HELD")
	if name == "" {
		return
	}
	call := map[string]func(int64, string) said{"stripe": heldStripeGo(), "aws": heldAWSGo()}[name]
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var a asked
		err := json.Unmarshal(lines.Bytes(), &a)
		if err == nil {
			err = json.NewEncoder(os.Stdout).Encode(call(a.N, a.Key))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(0)
}

func heldStripeGo() func(int64, string) said {
	c := stripe.NewClient("sk_test_123")
	return func(n int64, key string) said {
		params := &stripe.RefundCreateParams{Charge: stripe.String("ch_123"), Currency: stripe.String("usd"), Amount: stripe.Int64(n)}
		if key != "" {
			params.SetIdempotencyKey(key)
		}
		r, err := c.V1Refunds.Create(context.Background(), params)
		if err != nil {
			out := said{Name: fmt.Sprintf("%T", err), Message: err.Error()}
			if se := (*stripe.Error)(nil); errors.As(err, &se) {
				out.Status = se.HTTPStatusCode
			}
			return out
		}
		return said{OK: true, Value: r.Object}
	}
}

func heldAWSGo() func(int64, string) said {
	c := s3.New(s3.Options{Region: "us-east-1", Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: s3Secret}, nil
	})})
	return func(n int64, _ string) said {
		put, err := c.PutObject(context.Background(), &s3.PutObjectInput{
			Bucket: aws.String("acme"), Key: aws.String(fmt.Sprintf("report-%d", n)), Body: strings.NewReader("hello"),
		})
		if err != nil {
			out := said{Name: fmt.Sprintf("%T", err), Message: err.Error()}
			if re := (*awshttp.ResponseError)(nil); errors.As(err, &re) {
				out.Status = re.HTTPStatusCode()
			}
			return out
		}
		return said{OK: true, Value: aws.ToString(put.ETag)}
	}
}
