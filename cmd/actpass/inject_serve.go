package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/actpass/sidecar/inject"
)

// injectServer is the admission webhook.
type injectServer struct{ listen, cert, key string }

// maxReview bounds an admission request; the API server's own bound on an object
// is half of it.
const maxReview = 3 << 20

func (s injectServer) run(cmd *cobra.Command, o inject.Options) error {
	if s.cert == "" || s.key == "" {
		return usage("--serve needs --tls-cert and --tls-key: the API server calls webhooks over HTTPS only")
	}
	log, err := zap.NewProduction()
	if err != nil {
		return err
	}
	defer func() { _ = log.Sync() }()
	pair := &keyPair{cert: s.cert, key: s.key, log: log}
	if _, err := pair.get(nil); err != nil {
		return finding("%v", err)
	}
	ctx, cancel := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.listen)
	if err != nil {
		return finding("open --listen: %v", err)
	}
	server := &http.Server{
		Handler:   injectHandler(o, log),
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: pair.get},
		// The API server waits ten seconds at most.
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, ErrorLog: zap.NewStdLog(log),
	}
	log.Info("the webhook serves", zap.String("listen", ln.Addr().String()), zap.String("image", o.Image))
	failed := make(chan error, 1)
	go func() { failed <- server.ServeTLS(ln, "", "") }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve the webhook: %w", err)
	case <-ctx.Done():
	}
	stop, done := context.WithTimeout(context.Background(), drain)
	defer done()
	return server.Shutdown(stop)
}

func injectHandler(o inject.Options, log *zap.Logger) http.Handler {
	mux := http.NewServeMux()
	for path, namespace := range map[string]bool{"/inject": false, "/inject/namespace": true} {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxReview))
			var answer []byte
			if err == nil {
				answer, err = inject.Review(body, namespace, o)
			}
			if err != nil {
				status := http.StatusBadRequest
				var large *http.MaxBytesError
				if errors.As(err, &large) {
					status = http.StatusRequestEntityTooLarge
				}
				log.Warn("not an admission request", zap.String("from", r.RemoteAddr), zap.Error(err))
				http.Error(w, err.Error(), status)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(answer)
		})
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	return mux
}

// keyPair is a certificate in two files, read again when either changes. While they
// do not fit each other, as in the middle of a rotation, the last good one stays.
type keyPair struct {
	cert, key string
	log       *zap.Logger

	mu     sync.Mutex
	seen   [2]time.Time
	looked time.Time
	pair   *tls.Certificate
}

func (k *keyPair) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pair != nil && time.Since(k.looked) < time.Second {
		return k.pair, nil
	}
	k.looked = time.Now()
	var stamps [2]time.Time
	for i, file := range []string{k.cert, k.key} {
		if st, err := os.Stat(file); err == nil {
			stamps[i] = st.ModTime()
		}
	}
	if k.pair != nil && stamps == k.seen {
		return k.pair, nil
	}
	pair, err := tls.LoadX509KeyPair(k.cert, k.key)
	switch {
	case err == nil:
		if k.pair != nil {
			k.log.Info("the certificate was read again")
		}
		k.pair, k.seen = &pair, stamps
	case k.pair == nil:
		return nil, fmt.Errorf("read the webhook's certificate: %w", err)
	default:
		k.log.Error("the new certificate cannot be used, the last good one stays", zap.Error(err))
	}
	return k.pair, nil
}
