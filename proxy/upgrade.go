package proxy

import (
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// switchProtocols relays a connection whose upgrade was judged and accepted by
// the upstream. The agent's bytes count from our 101 on: what it sent earlier
// was sent before there was anybody to speak the new protocol with, and is the
// shape of a smuggled request.
func (x *exchange) switchProtocols(resp *http.Response, asked string) {
	up, ok := resp.Body.(io.ReadWriteCloser)
	protocol := resp.Header.Get("Upgrade")
	if asked == "" || !ok || strings.ToLower(protocol) != asked {
		_ = resp.Body.Close()
		x.status = http.StatusBadGateway
		x.permit.Done(gate.Outcome{State: evidence.StateForwarded, Status: http.StatusSwitchingProtocols, Error: "the upstream switched to a protocol that was not asked for"})
		x.failed(http.StatusBadGateway, ReasonUpstreamFailed, "The upstream switched to a protocol that was not asked for.")
		return
	}
	x.status = http.StatusSwitchingProtocols
	conn, rw, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		_ = up.Close()
		x.permit.Done(gate.Outcome{State: evidence.StateForwarded, Status: x.status, Error: "the connection cannot switch protocols: " + err.Error()})
		x.failed(http.StatusBadGateway, ReasonUpstreamFailed, "This connection cannot switch protocols.")
		return
	}
	x.wrote = true
	var client net.Conn = conn
	early := rw.Reader.Buffered()
	if lc, ok := conn.(*lintConn); ok {
		early += len(lc.release())
		client = lc.Conn
	}
	if early > 0 {
		_ = conn.Close()
		_ = up.Close()
		x.note = "bytes before 101"
		x.permit.Done(gate.Outcome{State: evidence.StateForwarded, Status: x.status, Error: "the client sent bytes before the protocol was switched; the connection was closed"})
		return
	}
	h := make(http.Header, len(resp.Header)+5)
	copyAnswer(h, resp.Header)
	delete(h, "Content-Type")
	x.sign(h)
	h["Connection"], h["Upgrade"] = []string{"Upgrade"}, []string{protocol}
	if !x.s.tunnels.add(client) {
		_ = up.Close()
		x.permit.Done(gate.Outcome{State: evidence.StateForwarded, Status: x.status, Error: "the sidecar is stopping"})
		return
	}
	defer x.s.tunnels.remove(client)
	if _, err := io.WriteString(client, "HTTP/1.1 101 Switching Protocols\r\n"+headerLines(h)+"\r\n"); err != nil {
		_ = client.Close()
		_ = up.Close()
		x.permit.Done(gate.Outcome{State: evidence.StateForwarded, Status: x.status, Error: "the client went away"})
		return
	}
	received := x.relayUpgraded(client, up)
	x.permit.Done(gate.Outcome{State: evidence.StateForwarded, Status: x.status, Bytes: received})
}

// relayUpgraded copies both ways. The upstream side has no half-close, so the
// end of either direction ends both.
func (x *exchange) relayUpgraded(client net.Conn, up io.ReadWriteCloser) int64 {
	x.s.metrics.openTunnels.Inc()
	defer x.s.metrics.openTunnels.Dec()
	closeBoth := func() {
		_ = up.Close()
		_ = client.Close()
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(up, client) // how it ended is all there is to know
		closeBoth()
	}()
	received, _ := io.Copy(client, up)
	closeBoth()
	<-ended
	return received
}
