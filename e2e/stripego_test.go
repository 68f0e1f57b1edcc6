package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stripe/stripe-go/v82"
)

// The test binary is also the program that uses stripe-go: a process of its own,
// because an SDK that reads proxy and roots from the environment reads them once.
func init() {
	amount := os.Getenv("E2E_STRIPE_GO")
	if amount == "" {
		return
	}
	if err := stripeGo(amount); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// stripeGo makes one refund with the SDK as it comes and prints what the SDK
// gave, or the error that it returned.
func stripeGo(amount string) error {
	n, err := strconv.ParseInt(amount, 10, 64)
	if err != nil {
		return err
	}
	cfg := &stripe.BackendConfig{EnableTelemetry: stripe.Bool(false), LeveledLogger: &stripe.LeveledLogger{}}
	if base := os.Getenv("STRIPE_BASE"); base != "" {
		// stripe-go takes no base URL with a path, and not every resolver knows names
		// below .localhost (RFC 6761 section 6.3).
		cfg.URL = stripe.String(base)
		cfg.HTTPClient = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
		}}}
	}
	if retries := os.Getenv("STRIPE_RETRIES"); retries != "" {
		most, err := strconv.ParseInt(retries, 10, 64)
		if err != nil {
			return err
		}
		cfg.MaxNetworkRetries = stripe.Int64(most)
	}
	sc := stripe.NewClient("sk_test_123", stripe.WithBackends(stripe.NewBackendsWithConfig(cfg)))
	r, err := sc.V1Refunds.Create(context.Background(), &stripe.RefundCreateParams{
		Charge: stripe.String("ch_123"), Currency: stripe.String("usd"), Amount: stripe.Int64(n),
	})
	var out sdkResult
	var se *stripe.Error
	switch {
	case err == nil:
		out = sdkResult{OK: true, Object: r.Object}
	case errors.As(err, &se):
		out = sdkResult{Type: string(se.Type), Status: se.HTTPStatusCode, Code: string(se.Code), Message: se.Msg}
	default:
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

func TestStripeGo(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	must(t, err)
	command := func(amount string, retries int, env ...string) (e, args []string) {
		env = append(env, "E2E_STRIPE_GO="+amount)
		if retries >= 0 {
			env = append(env, fmt.Sprintf("STRIPE_RETRIES=%d", retries))
		}
		return env, []string{self}
	}
	// stripe-go has no type of its own for a permission error: the status says it.
	denied := func(r sdkResult) bool { return r.Type == string(stripe.ErrorTypeInvalidRequest) }
	t.Run("forward", func(t *testing.T) {
		t.Parallel()
		testSDK(t, sdk{denied: denied, command: func(_ testing.TB, sc *sidecar, amount string, retries int) (env, args []string) {
			return command(amount, retries, "HTTPS_PROXY=http://"+sc.proxy, "SSL_CERT_FILE="+filepath.Join(sc.dir, "data", "ca", "ca.pem"))
		}})
	})
	t.Run("reverse", func(t *testing.T) {
		t.Parallel()
		testSDK(t, sdk{denied: denied, command: func(_ testing.TB, sc *sidecar, amount string, retries int) (env, args []string) {
			_, port, _ := strings.Cut(sc.revers, ":")
			return command(amount, retries, "STRIPE_BASE=http://stripe.localhost:"+port)
		}})
	})
}
