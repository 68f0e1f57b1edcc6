package launch_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// sidecar is a forward proxy that intercepts every CONNECT with its own CA and answers in the origin's place. Hosts under
// .test resolve nowhere, so an answer for one can have come only through it. Some names misbehave:
//
//	refused.test    403 with a problem+json body
//	chunked.test    the same, without Content-Length
//	silent.test     no answer to CONNECT
//	hangup.test     the connection is closed instead of an answer
//	misnamed.test   a leaf certificate for another name
type sidecar struct {
	*httptest.Server
	caKey *ecdsa.PrivateKey
	ca    *x509.Certificate
	caPEM []byte

	mu       sync.Mutex
	connects []connect
}

type connect struct{ target, auth string }

// echo is what the origin says about a request.
type echo struct {
	Host   string `json:"host"`
	Path   string `json:"path"`
	Method string `json:"method"`
	Proto  string `json:"proto"`
	TLS    bool   `json:"tls"`
	Door   string `json:"door"` // connect, forward (absolute-form) or direct
	Bytes  int64  `json:"bytes"`
}

func newSidecar(t *testing.T) *sidecar {
	t.Helper()
	s := &sidecar{}
	s.caKey = newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "launch test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, s.caKey.Public(), s.caKey)
	if err != nil {
		t.Fatal(err)
	}
	if s.ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	s.caPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(s.front))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Start()
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (s *sidecar) leaf(name string) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, s.ca, s.caKey.Public(), s.caKey)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: s.caKey}, err
}

// targets are the authorities of the CONNECT requests so far.
func (s *sidecar) targets() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, c := range s.connects {
		out = append(out, c.target)
	}
	return out
}

func (s *sidecar) count(target string) int {
	n := 0
	for _, got := range s.targets() {
		if got == target {
			n++
		}
	}
	return n
}

func (s *sidecar) front(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		door := "direct"
		if r.URL.IsAbs() {
			door = "forward"
		}
		answer(door)(w, r)
		return
	}
	s.mu.Lock()
	s.connects = append(s.connects, connect{r.Host, r.Header.Get("Proxy-Authorization")})
	s.mu.Unlock()
	host, _, _ := strings.Cut(r.Host, ":")
	switch host {
	case "refused.test", "chunked.test":
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusForbidden)
		if host == "chunked.test" {
			w.(http.Flusher).Flush()
		}
		fmt.Fprint(w, `{"title":"Forbidden","detail":"Policy no_tunnels v1 denies http.connect.","reason_code":"net.denied"}`)
		return
	case "silent.test":
		<-r.Context().Done()
		return
	case "hangup.test":
		panic(http.ErrAbortHandler)
	}
	conn, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	fmt.Fprint(conn, "HTTP/1.1 200 Connection established\r\n\r\n")
	s.serve(&replay{conn, rw.Reader}, host, "connect")
}

// serve answers as the origin on a connection that speaks TLS or plain HTTP.
func (s *sidecar) serve(conn *replay, host, door string) {
	first, err := conn.r.Peek(1)
	if err != nil {
		conn.Close()
		return
	}
	var inner net.Conn = conn
	if first[0] == 0x16 {
		if host == "misnamed.test" {
			host = "other.test"
		}
		cert, err := s.leaf(host)
		if err != nil {
			conn.Close()
			return
		}
		inner = tls.Server(conn, &tls.Config{
			NextProtos: []string{"h2", "http/1.1"},
			GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
				if hello.ServerName == "" && net.ParseIP(host) == nil {
					return nil, errors.New("the client names no server")
				}
				return &cert, nil
			},
		})
	}
	srv := &http.Server{Handler: answer(door), ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute}
	l := &one{conn: make(chan net.Conn, 1), addr: conn.LocalAddr()}
	l.conn <- inner
	close(l.conn)
	_ = srv.Serve(l) // ends at once, with the connection served in the background
}

// origin is a TLS server on loopback with a certificate of the sidecar's CA, to be reached directly.
func (s *sidecar) origin(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go s.serve(&replay{conn, bufio.NewReader(conn)}, "127.0.0.1", "direct")
		}
	}()
	return l.Addr().String()
}

func answer(door string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/repo.git/info/refs"):
			w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
			line := "1111111111111111111111111111111111111111 refs/heads/main\x00agent=test\n"
			fmt.Fprintf(w, "001e# service=git-upload-pack\n0000%04x%s0000", len(line)+4, line)
		case r.Header.Get("Upgrade") == "websocket":
			conn, rw, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello %s via %s", r.Host, door)
			rw.Flush()
		case r.URL.Path == "/big":
			w.Header().Set("Content-Type", "application/octet-stream")
			block := make([]byte, 64<<10)
			for range 64 {
				if _, err := w.Write(block); err != nil {
					return
				}
			}
		default:
			n, _ := io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(echo{r.Host, r.URL.Path, r.Method, r.Proto, r.TLS != nil, door, n})
		}
	}
}

// replay is a connection whose first bytes a reader may already hold.
type replay struct {
	net.Conn
	r *bufio.Reader
}

func (c *replay) Read(p []byte) (int, error) { return c.r.Read(p) }

type one struct {
	conn chan net.Conn
	addr net.Addr
}

func (l *one) Accept() (net.Conn, error) {
	if c, ok := <-l.conn; ok {
		return c, nil
	}
	return nil, errors.New("served")
}

func (l *one) Close() error   { return nil }
func (l *one) Addr() net.Addr { return l.addr }

func (s *sidecar) wantTargets(t *testing.T, want ...string) {
	t.Helper()
	got := s.targets()
	for _, target := range want {
		if !slices.Contains(got, target) {
			t.Errorf("no CONNECT %s came through the sidecar; it saw %q", target, got)
		}
	}
}
