package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
)

func TestBodies(t *testing.T) {
	big := strings.Repeat("x", 3<<20)
	t.Run("unread bodies stream", func(t *testing.T) {
		for _, protos := range [][]string{{"http/1.1"}, {"h2"}} {
			w := newWorld(t)
			for _, chunked := range []bool{false, true} {
				var body io.Reader = strings.NewReader(big)
				if chunked {
					body = io.MultiReader(body)
				}
				req, _ := http.NewRequest("PUT", "https://api.test/x", body)
				resp, err := w.client(protos...).Do(req)
				if err != nil {
					t.Fatal(err)
				}
				b, _ := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if resp.StatusCode != 200 || !bytes.Contains(b, []byte(big)) {
					t.Errorf("%v chunked %v: %d, %d bytes", protos, chunked, resp.StatusCode, len(b))
				}
			}
		}
	})
	t.Run("too large to judge", func(t *testing.T) {
		w := newWorld(t)
		for _, protos := range []string{"http/1.1", "h2"} {
			got := w.do(w.client(protos), "POST", "https://api.test/v1/refunds", "amount=1&x="+big, "Content-Type", formType)
			if got.status != 413 {
				t.Errorf("%s: %d %s", protos, got.status, got.body)
			}
		}
		req, _ := http.NewRequest("POST", "https://api.test/v1/refunds", io.MultiReader(strings.NewReader("amount=1&x="+big)))
		req.Header.Set("Content-Type", formType)
		resp, err := w.client("h2").Do(req) // without a length
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != 413 {
			t.Errorf("chunked: %d", resp.StatusCode)
		}
		w.untouched()
	})
	t.Run("too large but monitored", func(t *testing.T) {
		for _, chunked := range []bool{false, true} {
			w := newWorld(t, withMode(gate.ModeMonitor))
			text := "amount=1&x=" + big
			var body io.Reader = strings.NewReader(text)
			if chunked {
				body = io.MultiReader(body)
			}
			req, _ := http.NewRequest("POST", "https://api.test/v1/refunds", body)
			req.Header.Set("Content-Type", formType)
			resp, err := w.client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			var m reply
			m.body = string(b)
			if resp.StatusCode != 200 || m.json(t)["body"] != text {
				t.Errorf("chunked %v: %d, %d bytes", chunked, resp.StatusCode, len(b))
			}
		}
	})
	t.Run("broken off", func(t *testing.T) {
		for _, mode := range []string{gate.ModeMonitor, gate.ModeEnforce} {
			w := newWorld(t, withMode(mode))
			conn, err := net.Dial("tcp", w.front)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(3 * time.Second))
			_, _ = io.WriteString(conn, "POST http://api.test/v1/refunds HTTP/1.1\r\nHost: api.test\r\nContent-Type: "+formType+"\r\nContent-Length: 50\r\n\r\namount=1")
			_ = conn.(*net.TCPConn).CloseWrite()
			if got := readReply(t, bufio.NewReader(conn)); got.status != 400 {
				t.Errorf("%s: %d %s", mode, got.status, got.body)
			}
			w.untouched()
		}
	})
	t.Run("100 continue", func(t *testing.T) {
		w := newWorld(t)
		for _, c := range []struct {
			path, body string
			asked      bool
			status     int
		}{
			{"http://api.test/v1/refunds", "amount=4900&charge=ch_1", true, 200},
			{"http://api.test/put", "stream", true, 200},
			{"http://api.test/v1/x%2f", "never sent", false, 400},
		} {
			conn, err := net.Dial("tcp", w.front)
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: api.test\r\nContent-Type: %s\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", c.path, formType, len(c.body))
			r := bufio.NewReader(conn)
			line, err := r.ReadString('\n')
			if err != nil {
				t.Fatalf("%s: %v", c.path, err)
			}
			if asked := strings.HasPrefix(line, "HTTP/1.1 100"); asked != c.asked {
				t.Errorf("%s: %q", c.path, line)
			}
			if c.asked {
				_, _ = r.ReadString('\n')
				_, _ = io.WriteString(conn, c.body)
				if got := readReply(t, r); got.status != c.status || got.json(t)["body"] != c.body {
					t.Errorf("%s: %d %s", c.path, got.status, got.body)
				}
			}
			_ = conn.Close()
		}
	})
}
