package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// speaking makes the upstream's TLS side speak one protocol only.
func (u *upstream) speaking(t testing.TB, proto string) {
	t.Helper()
	cert, ca := testCertificate(t, upstreamHosts)
	u.caFile = filepath.Join(t.TempDir(), "upstream-ca.pem")
	must(t, os.WriteFile(u.caFile, ca, 0o644))
	srv := &http.Server{
		Handler: u, ErrorLog: log.New(io.Discard, "", 0),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{proto}},
	}
	if proto == "http/1.1" {
		srv.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	u.tls = ln.Addr().String()
	go func() { _ = srv.ServeTLS(countedListener{ln, u}, "", "") }()
	t.Cleanup(func() { _ = srv.Close() })
}

// TestAnswersArriveAsTheyCome holds the sidecar to buffering nothing on the way
// back: each piece is read while the upstream has not yet sent the next.
func TestAnswersArriveAsTheyCome(t *testing.T) {
	t.Parallel()
	for _, proto := range []string{"h2", "http/1.1"} {
		u := newUpstream(t)
		u.speaking(t, proto)
		sc := start(t, settings{front: u})
		ways := []struct {
			name   string
			client *http.Client
			base   string
		}{
			{"forward", sc.proxied(t, false), "http://echo.example.test"},
			{"connect h1", sc.proxied(t, false), "https://echo.example.test"},
			{"connect h2", sc.proxied(t, true), "https://echo.example.test"},
			{"reverse", &http.Client{}, "http://" + sc.revers + "/echo"},
		}
		for _, kind := range []string{"text/event-stream", "application/octet-stream"} {
			for _, way := range ways {
				t.Run(proto+"/"+kind+"/"+way.name, func(t *testing.T) {
					next := make(chan struct{})
					u.handle(func(w http.ResponseWriter, r *http.Request) {
						w.Header().Set("Content-Type", kind)
						for i := range 3 {
							fmt.Fprintf(w, "data: %d\n\n", i)
							_ = http.NewResponseController(w).Flush()
							select {
							case <-next:
							case <-r.Context().Done():
								return
							}
						}
					})
					resp, err := way.client.Get(way.base + "/stream")
					must(t, err)
					defer resp.Body.Close()
					if resp.ContentLength != -1 || resp.Header.Get("Content-Type") != kind {
						t.Errorf("length %d, headers %v", resp.ContentLength, resp.Header)
					}
					timer := time.AfterFunc(patience, func() { resp.Body.Close() })
					defer timer.Stop()
					r := bufio.NewReader(resp.Body)
					for i := range 3 {
						line, err := r.ReadString('\n')
						must(t, err)
						if line != fmt.Sprintf("data: %d\n", i) {
							t.Fatalf("event %d is %q", i, line)
						}
						_, err = r.ReadString('\n')
						must(t, err)
						next <- struct{}{} // only now may the upstream go on
					}
					if rest, err := io.ReadAll(r); err != nil || len(rest) != 0 {
						t.Errorf("the end: %q, %v", rest, err)
					}
				})
			}
		}
		for _, s := range u.requestsSeen() {
			if want := map[string]string{"h2": "HTTP/2.0", "http/1.1": "HTTP/1.1"}[proto]; s.Proto != want && s.Proto != "HTTP/1.1" {
				t.Errorf("the upstream was spoken to in %s, want %s", s.Proto, want)
			}
		}
	}
}

// procStatus gives a value in KiB of the process, such as VmRSS or VmHWM.
func (sc *sidecar) procStatus(t testing.TB, name string) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", sc.cmd.Process.Pid))
	must(t, err)
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name+":" {
			n, err := strconv.Atoi(f[1])
			must(t, err)
			return n
		}
	}
	t.Fatalf("no %s in /proc", name)
	return 0
}

// flat fails if f makes the sidecar's memory grow by 60 MiB or more at any time.
func (sc *sidecar) flat(t testing.TB, f func()) {
	t.Helper()
	if _, err := os.Stat("/proc/self/status"); err != nil {
		missing(t, "memory is read from /proc")
	}
	// 5 resets the peak (proc(5), clear_refs).
	must(t, os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", sc.cmd.Process.Pid), []byte("5"), 0))
	before := sc.procStatus(t, "VmRSS")
	f()
	if grown := sc.procStatus(t, "VmHWM") - before; grown >= 60<<10 {
		t.Errorf("memory grew by %d KiB", grown)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestLargeDownloadIsStreamed(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	const size = 1 << 30
	u.handle(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(size))
		_, _ = io.CopyN(w, zeros{}, size)
	})
	sc := start(t, settings{front: u})
	get := func(size int64, url string) {
		resp, err := sc.proxied(t, false).Get(url)
		must(t, err)
		defer resp.Body.Close()
		n, err := io.Copy(io.Discard, io.LimitReader(resp.Body, size))
		if err != nil || n != size || resp.StatusCode != 200 {
			t.Errorf("%d: %d bytes, %v", resp.StatusCode, n, err)
		}
	}
	sc.flat(t, func() { get(size, "http://echo.example.test/big") })
	// Through TLS on both sides a part of it is enough; the rest is given up.
	sc.flat(t, func() { get(64<<20, "https://echo.example.test/big") })
	events := sc.events()
	if len(events) != 2 || events[0].Outcome.Bytes != size || events[0].Outcome.State != "forwarded" {
		t.Errorf("%+v", events)
	}
}

// uploadRule has a body pass unread.
const uploadRule = `rules:
  - match: { host: echo.example.test, methods: [PUT], path: "/upload/**" }
    tool: echo.upload
    risk: low
    args: none
    resource: "echo:upload"
`

func TestLargeUploadIsStreamed(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	sc := idle(t, settings{front: u})
	must(t, os.WriteFile(filepath.Join(sc.dir, "mapping.yaml"), []byte(uploadRule), 0o644))
	sc.run("ACTPASS_MAPPING_FILES=./mapping.yaml")
	sc.admin = sc.key("--name", "admin", "--role", "admin")
	t.Cleanup(sc.stop)

	const size = 256 << 20
	first, total := make(chan struct{}, 1), make(chan int64, 1)
	u.handle(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadFull(r.Body, make([]byte, 1024)); err == nil {
			first <- struct{}{}
		}
		n, _ := io.Copy(io.Discard, r.Body)
		total <- n + 1024
		w.WriteHeader(http.StatusCreated)
	})
	for _, c := range []struct{ target, tool string }{
		{"/upload/file", "echo.upload"},
		{"/elsewhere", "http.put"}, // a call that no rule names has no arguments either
	} {
		sc.flat(t, func() {
			pr, pw := io.Pipe()
			go func() {
				_, _ = pw.Write(make([]byte, 1024))
				select {
				case <-first: // the upstream has the beginning before the end exists
					_, _ = io.CopyN(pw, zeros{}, size-1024)
					_ = pw.Close()
				case <-time.After(patience):
					_ = pw.CloseWithError(fmt.Errorf("the upstream did not see the beginning of the body"))
				}
			}()
			req, err := http.NewRequest(http.MethodPut, "http://echo.example.test"+c.target, pr)
			must(t, err)
			req.ContentLength = size
			resp, err := sc.proxied(t, false).Do(req)
			must(t, err)
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusCreated {
				t.Errorf("%s: %d", c.target, resp.StatusCode)
			}
			if n := <-total; n != size {
				t.Errorf("%s: the upstream got %d bytes", c.target, n)
			}
		})
		events := sc.events()
		if e := events[len(events)-1]; e.Tool != c.tool || e.Outcome.Status != http.StatusCreated || e.Request.BodySHA256 != "" {
			t.Errorf("%s: %+v", c.target, e)
		}
	}
}

// frame makes a WebSocket frame (RFC 6455 section 5.2) of less than 126 bytes.
func frame(masked bool, text string) []byte {
	b := []byte{0x81, byte(len(text))}
	if !masked {
		return append(b, text...)
	}
	b[1] |= 0x80
	mask := []byte{1, 2, 3, 4}
	b = append(b, mask...)
	for i := range len(text) {
		b = append(b, text[i]^mask[i%4])
	}
	return b
}

func readFrame(r io.Reader) (string, error) {
	head := make([]byte, 2)
	if _, err := io.ReadFull(r, head); err != nil {
		return "", err
	}
	mask := make([]byte, 4)
	if head[1]&0x80 != 0 {
		if _, err := io.ReadFull(r, mask); err != nil {
			return "", err
		}
	}
	data := make([]byte, head[1]&0x7f)
	_, err := io.ReadFull(r, data)
	for i := range data {
		data[i] ^= mask[i%4]
	}
	return string(data), err
}

func websocketKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

const denyPolicy = `policies:
  - name: walls
    version: 1
    tools: ["*"]
    rules:
      - { name: denied_path, when: resource.contains("/denied"), decision: deny, reason_code: test.denied }
`

func TestWebSocket(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	u.handle(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer conn.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", websocketKey(r.Header.Get("Sec-WebSocket-Key")))
		_, _ = rw.Write(frame(false, "the server speaks first"))
		_ = rw.Flush()
		for {
			text, err := readFrame(rw)
			if err != nil {
				return
			}
			_, _ = rw.Write(frame(false, "you said "+text))
			_ = rw.Flush()
		}
	})
	sc := start(t, settings{front: u, policies: map[string]string{"reads.yaml": readsPolicy, "walls.yaml": denyPolicy}})
	handshake := func(c io.Writer, target, host string) {
		_, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", target, host)
		must(t, err)
	}
	ways := []struct {
		name string
		dial func() net.Conn
		base string
		host string
	}{
		{"connect", func() net.Conn { return sc.insideTLS(t, "echo.example.test", "http/1.1") }, "", "echo.example.test"},
		{"forward", func() net.Conn { return dialH1(t, sc.proxy).Conn }, "http://echo.example.test", "echo.example.test"},
		{"reverse", func() net.Conn { return dialH1(t, sc.revers).Conn }, "/echo", sc.revers},
	}
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			before := len(sc.events())
			c := way.dial()
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(patience))
			handshake(c, way.base+"/chat", way.host)
			r := bufio.NewReader(c)
			resp, err := http.ReadResponse(r, nil)
			must(t, err)
			if resp.StatusCode != 101 || resp.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" || resp.Header.Get("ActPass-Evidence") == "" {
				t.Fatalf("%d %v", resp.StatusCode, resp.Header)
			}
			expectFrame := func(want string) {
				t.Helper()
				if got, err := readFrame(r); err != nil || got != want {
					t.Fatalf("frame %q, %v, want %q", got, err, want)
				}
			}
			expectFrame("the server speaks first")
			for _, text := range []string{"one", "two"} {
				_, err := c.Write(frame(true, text))
				must(t, err)
				expectFrame("you said " + text)
			}
			_ = c.Close()
			eventually(t, "the outcome of the upgrade is on record", func() bool {
				e := sc.since(before)
				return len(e) == 1 && e[0].Outcome.State == "forwarded" && e[0].Outcome.Status == 101
			})

			u.quiet(t, "a denied upgrade", func() {
				c := way.dial()
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(patience))
				handshake(c, way.base+"/denied", way.host)
				resp, err := http.ReadResponse(bufio.NewReader(c), nil)
				must(t, err)
				if resp.StatusCode != 403 || resp.Header.Get("ActPass-Reason") != "test.denied" {
					t.Errorf("%d %v", resp.StatusCode, resp.Header)
				}
			})
		})
	}
}

// message makes a length-prefixed gRPC message of less than 256 bytes.
func message(text string) []byte {
	return append([]byte{0, 0, 0, 0, byte(len(text))}, text...)
}

func readMessage(r io.Reader) (string, error) {
	head := make([]byte, 5)
	if _, err := io.ReadFull(r, head); err != nil {
		return "", err
	}
	data := make([]byte, head[4])
	_, err := io.ReadFull(r, data)
	return string(data), err
}

// TestGRPC is a bidirectional stream as gRPC uses HTTP/2: each side answers the
// other's last message, and the status comes in trailers.
func TestGRPC(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	u.handle(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 || r.Header.Get("Te") != "trailers" {
			http.Error(w, fmt.Sprint(r.Proto, r.Header), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		_ = http.NewResponseController(w).Flush()
		for {
			text, err := readMessage(r.Body)
			if err != nil {
				break
			}
			_, _ = w.Write(message("echo " + text))
			_ = http.NewResponseController(w).Flush()
		}
		w.Header().Set("Grpc-Status", "0")
		w.Header().Set(http.TrailerPrefix+"Grpc-Message", "all said "+r.Trailer.Get("X-Client-Trailer"))
	})
	sc := start(t, settings{front: u, policies: map[string]string{"reads.yaml": readsPolicy, "walls.yaml": denyPolicy}})
	//lint:ignore SA1019 it takes a connection that is there already, as this test needs; net/http dials its own
	conn, err := (&http2.Transport{}).NewClientConn(sc.insideTLS(t, "echo.example.test", "h2"))
	must(t, err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	call := func(path string, body io.Reader) *http.Response {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://echo.example.test"+path, body)
		must(t, err)
		req.Header.Set("Content-Type", "application/grpc")
		req.Header.Set("Te", "trailers")
		req.Trailer = http.Header{"X-Client-Trailer": {"bye"}}
		resp, err := conn.RoundTrip(req)
		must(t, err)
		return resp
	}
	pr, pw := io.Pipe()
	resp := call("/echo.Echo/Both", pr)
	defer resp.Body.Close()
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/grpc" {
		b, _ := io.ReadAll(resp.Body)
		t.Fatalf("%d %v %s", resp.StatusCode, resp.Header, b)
	}
	for i := range 5 {
		// The answer to one message is read before the next is sent.
		_, err := pw.Write(message(fmt.Sprint("m", i)))
		must(t, err)
		if got, err := readMessage(resp.Body); err != nil || got != fmt.Sprint("echo m", i) {
			t.Fatalf("message %d: %q, %v", i, got, err)
		}
	}
	must(t, pw.Close())
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) != 0 {
		t.Errorf("the end: %q %v", rest, err)
	}
	if resp.Trailer.Get("Grpc-Status") != "0" || resp.Trailer.Get("Grpc-Message") != "all said bye" {
		t.Errorf("trailers %v", resp.Trailer)
	}
	// A refusal is a status that a gRPC client shows, and nothing is sent.
	u.quiet(t, "a denied gRPC call", func() {
		resp := call("/denied.Service/Call", bytes.NewReader(message("x")))
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		status := resp.Header.Get("Grpc-Status") + resp.Trailer.Get("Grpc-Status")
		if resp.StatusCode != 200 || status != "7" || !strings.Contains(resp.Header.Get("Grpc-Message")+resp.Trailer.Get("Grpc-Message"), "ActPass blocked this call") {
			t.Errorf("%d %v %v", resp.StatusCode, resp.Header, resp.Trailer)
		}
	})
}

func TestUpstreamConnectionsAreKept(t *testing.T) {
	t.Parallel()
	for _, proto := range []string{"h2", "http/1.1"} {
		t.Run(proto, func(t *testing.T) {
			u := newUpstream(t)
			u.speaking(t, proto)
			sc := start(t, settings{front: u})
			for i := range 40 {
				d := doors[1+i%4] // every door that leads to https
				body := ""
				method := http.MethodGet
				if i%3 == 0 {
					method, body = http.MethodPost, "a=1"
				}
				if a := d.send(t, sc, method, "echo.example.test", fmt.Sprint("/", i), form, body, nil); a.status != 200 {
					t.Fatalf("%d %s", a.status, a.body)
				}
			}
			want := int64(1)
			if proto != "h2" {
				want = 2 // one for bodies that stream, one for all else
			}
			if n := u.conns.Load(); int64(n) != want {
				t.Errorf("40 calls one after the other took %d connections to the upstream", n)
			}
			if n := len(u.requestsSeen()); n != 40 {
				t.Errorf("the upstream saw %d calls", n)
			}
		})
	}
}
