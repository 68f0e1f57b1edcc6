package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
)

// upstreamHost is the provider that the load is for.
const upstreamHost = "api.stripe.com"

const (
	refundAnswer = `{"id":"re_1Nispe2eZvKYlo2Cd31jOCgZ","object":"refund","amount":4900,"balance_transaction":"txn_1Nispe2eZvKYlo2CYezqFhEx","charge":"ch_1NirD82eZvKYlo2CIvbtLWuY","created":1692942318,"currency":"usd","destination_details":{"card":{"reference":"123456789012","reference_status":"available","reference_type":"acquirer_reference_number","type":"refund"},"type":"card"},"metadata":{"order_id":"6735"},"payment_intent":"pi_1GszsK2eZvKYlo2CfhZyoZLp","reason":"requested_by_customer","receipt_number":null,"source_transfer_reversal":null,"status":"succeeded","transfer_reversal":null}`
	chargeAnswer = `{"id":"ch_3OqYJ2LkdIwHu7ix0z9v1c2d","object":"charge","amount":4900,"amount_refunded":0,"captured":true,"currency":"usd","customer":"cus_NffrFeUfNV2Hib","description":null,"paid":true,"refunded":false,"status":"succeeded"}`
)

// upstreamMain is the provider: it answers at once with a fixed document.
// HTTP/1.1 only, because that is what the bare proxy speaks to an upstream.
func upstreamMain(args []string) error {
	fs := flag.NewFlagSet(roleUpstream, flag.ExitOnError)
	cert := fs.String("cert", "", "certificate and key, PEM")
	if err := fs.Parse(args); err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(*cert, *cert)
	if err != nil {
		return err
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}})
	if err != nil {
		return err
	}
	answer := func(body string) http.HandlerFunc {
		b, length := []byte(body), []string{strconv.Itoa(len(body))}
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			h := w.Header()
			h["Content-Type"] = []string{"application/json"}
			h["Content-Length"] = length
			h["Request-Id"] = []string{"req_bench"}
			h["Stripe-Version"] = []string{"2024-06-20"}
			_, _ = w.Write(b)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/refunds", answer(refundAnswer))
	mux.HandleFunc("GET /v1/charges/{charge}", answer(chargeAnswer))
	fmt.Println(ln.Addr())
	err = (&http.Server{Handler: mux, ErrorLog: log.New(io.Discard, "", 0)}).Serve(ln)
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// writeAuthority makes a CA and writes certificate and key to one PEM file.
func writeAuthority(file, name string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	return cert, key, writePair(file, der, key)
}

// writeLeaf makes a certificate for the upstream.
func writeLeaf(file string, ca *x509.Certificate, caKey *ecdsa.PrivateKey) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: upstreamHost}, DNSNames: []string{upstreamHost},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, &key.PublicKey, caKey)
	if err != nil {
		return err
	}
	return writePair(file, der, key)
}

func writePair(file string, der []byte, key *ecdsa.PrivateKey) error {
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	b = append(b, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})...)
	return os.WriteFile(file, b, 0o600)
}

// roots reads the certificates of a PEM file.
func roots(file string) (*x509.CertPool, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return pool, nil
}
