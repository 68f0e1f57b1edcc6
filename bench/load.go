package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

// What is asked of the proxies.
const (
	callRefund = "refund" // a form POST, judged by its arguments
	callRead   = "read"   // a GET without a body
)

// result is what one load measured; times in milliseconds.
type result struct {
	Requests int     `json:"requests"`
	Seconds  float64 `json:"seconds"`
	P50      float64 `json:"p50"`
	P99      float64 `json:"p99"`
}

func (r result) rate() float64 { return float64(r.Requests) / r.Seconds }

// loadMain is the agents: each has a connection of its own through the proxy and
// sends its next call when the last is answered. It prints a line when the
// measured time begins, and the result at its end. Any answer but 200 is fatal: a
// proxy that refuses is fast.
func loadMain(args []string) error {
	fs := flag.NewFlagSet(roleLoad, flag.ExitOnError)
	proxy := fs.String("proxy", "", "address of the proxy")
	ca := fs.String("ca", "", "its CA")
	call := fs.String("call", callRefund, "refund or read")
	clients := fs.Int("clients", 64, "connections")
	warmup := fs.Duration("warmup", time.Second, "unmeasured time before")
	duration := fs.Duration("duration", 4*time.Second, "measured time")
	if err := fs.Parse(args); err != nil {
		return err
	}
	pool, err := roots(*ca)
	if err != nil {
		return err
	}
	transport := &http.Transport{
		Proxy:           http.ProxyURL(&url.URL{Scheme: "http", Host: *proxy}),
		TLSClientConfig: &tls.Config{RootCAs: pool}, DisableCompression: true,
		MaxIdleConnsPerHost: *clients, MaxConnsPerHost: *clients,
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	begin := time.Now().Add(*warmup)
	end := begin.Add(*duration)
	took := make([][]float64, *clients)
	var failed error
	var once sync.Once
	var wg sync.WaitGroup
	for i := range *clients {
		wg.Go(func() {
			for n := 0; ; n++ {
				start := time.Now()
				if !start.Before(end) {
					return
				}
				err := send(ctx, transport, *call, fmt.Sprintf("bench-%d-%d-%d", os.Getpid(), i, n))
				if err != nil {
					once.Do(func() { failed = err; cancel() })
					return
				}
				if stop := time.Now(); !start.Before(begin) && stop.Before(end) {
					took[i] = append(took[i], stop.Sub(start).Seconds()*1000)
				}
			}
		})
	}
	time.Sleep(time.Until(begin))
	fmt.Println("begin")
	time.Sleep(time.Until(end))
	fmt.Println("end")
	wg.Wait()
	if failed != nil {
		return failed
	}
	var all []float64
	for _, t := range took {
		all = append(all, t...)
	}
	return json.NewEncoder(os.Stdout).Encode(result{Requests: len(all), Seconds: duration.Seconds(), P50: quantile(all, 0.5), P99: quantile(all, 0.99)})
}

const smallRefund = "charge=ch_3OqYJ2LkdIwHu7ix0z9v1c2d&amount=4900&currency=usd&reason=requested_by_customer&metadata[order_id]=6735"

func send(ctx context.Context, transport *http.Transport, call, key string) error {
	method, target, body := http.MethodGet, "/v1/charges/ch_3OqYJ2LkdIwHu7ix0z9v1c2d", io.Reader(nil)
	if call == callRefund {
		method, target, body = http.MethodPost, "/v1/refunds", strings.NewReader(smallRefund)
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+upstreamHost+target, body)
	if err != nil {
		return err
	}
	req.Header["Authorization"] = []string{"Bearer sk_test_4eC39HqLyjWDarjtT1zdp7dc"}
	req.Header["User-Agent"] = []string{"Stripe/v1 PythonBindings/7.1.0"}
	req.Header["Stripe-Version"] = []string{"2024-06-20"}
	req.Header["Accept"] = []string{"*/*"}
	if call == callRefund {
		req.Header["Content-Type"] = []string{"application/x-www-form-urlencoded"}
		req.Header["Idempotency-Key"] = []string{key}
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	answer, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return fmt.Errorf("read an answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s\n%s", method, target, resp.Status, answer)
	}
	return nil
}
