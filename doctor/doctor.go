// Package doctor tries to get out of where it runs without the sidecar, path by
// path, and says of each whether it is enforced, advisory or open.
//
// It believes what it sees on the wire and nothing else: a connection that is
// answered by the sidecar (a certificate of its authority, or an ActPass- header)
// was led to it; one that anybody else answers got out. What nothing answers is
// taken as stopped, and marked uncertain, since a target that is down looks the
// same.
package doctor

import (
	"context"
	"net"
	"strings"
	"sync"
	"time"
)

// Verdicts, from good to bad.
const (
	Enforced = "enforced" // nothing gets out this way but through the sidecar, or nothing at all
	Advisory = "advisory" // a program that obeys its variables is judged, one that does not gets out
	Open     = "open"     // nothing leads to the sidecar here
)

// Verdicts in this order.
var Verdicts = []string{Enforced, Advisory, Open}

// Budget bounds a whole run.
const Budget = 10 * time.Second

// patience is how long one try waits for an answer.
const patience = 1500 * time.Millisecond

// Path is one way out and what became of it.
type Path struct {
	Path    string `json:"path"` // tcp, tcp6, udp443, udp443_6, dns_udp, dns_tcp, metadata, variables
	Target  string `json:"target"`
	Verdict string `json:"verdict"`
	// Certain is false where nothing answered: stopped on the way, or nobody there.
	Certain bool   `json:"certain"`
	Detail  string `json:"detail"`           // what was seen
	Change  string `json:"change,omitempty"` // what to do about it; "" where nothing
}

// Report is a whole run. Its verdict is the worst of its paths, leaving out
// variables, which can only advise.
type Report struct {
	Verdict string `json:"verdict"`
	Paths   []Path `json:"paths"`
}

// Targets are addresses that are tried, host:port with an address as host; an
// empty one leaves its path out.
type Targets struct{ TCP, TCP6, UDP, UDP6, DNS, Metadata string }

// Public targets of the Internet that speak TLS, QUIC and DNS, and the metadata
// service of the clouds.
var Public = Targets{
	TCP: "1.1.1.1:443", TCP6: "[2606:4700:4700::1111]:443",
	UDP: "1.1.1.1:443", UDP6: "[2606:4700:4700::1111]:443",
	DNS: "1.1.1.1:53", Metadata: "169.254.169.254:80",
}

// Options of Run.
type Options struct {
	Targets Targets
	// Environ is the workload's environment, as os.Environ gives it.
	Environ []string
	// CAPEM holds the sidecar's authority. Without it a certificate is known by the
	// name of its issuer, which anybody can write.
	CAPEM []byte
}

// Run tries every path, all at once, and ends within Budget. An answer of the
// sidecar to a try may put an event on its record.
func Run(ctx context.Context, o Options) Report {
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	r := &runner{o: o, env: map[string]string{}}
	for _, entry := range o.Environ {
		if name, value, ok := strings.Cut(entry, "="); ok {
			r.env[name] = value
		}
	}
	vars := r.variables(ctx)
	r.advised = vars.Verdict == Advisory
	tries := []func() Path{
		func() Path { return r.tcp(ctx, "tcp", o.Targets.TCP) },
		func() Path { return r.tcp(ctx, "tcp6", o.Targets.TCP6) },
		func() Path { return r.udp(ctx, "udp443", o.Targets.UDP, quicProbe()) },
		func() Path { return r.udp(ctx, "udp443_6", o.Targets.UDP6, quicProbe()) },
		func() Path { return r.udp(ctx, "dns_udp", o.Targets.DNS, dnsProbe()) },
		func() Path { return r.tcp(ctx, "dns_tcp", o.Targets.DNS) },
		func() Path { return r.metadata(ctx, o.Targets.Metadata) },
	}
	paths := make([]Path, len(tries))
	var wg sync.WaitGroup
	for i, try := range tries {
		wg.Go(func() { paths[i] = try() })
	}
	wg.Wait()
	out := Report{Verdict: Enforced, Paths: []Path{vars}}
	for _, p := range paths {
		if p.Target == "" {
			continue
		}
		out.Paths = append(out.Paths, p)
		if p.Verdict == Open || p.Verdict == Advisory && out.Verdict == Enforced {
			out.Verdict = p.Verdict
		}
	}
	return out
}

type runner struct {
	o       Options
	env     map[string]string
	advised bool
}

// around is the verdict on a way that leads around the sidecar. A program that
// obeys the variables takes none of them: it asks the proxy for names too, and
// speaks no QUIC.
func (r *runner) around(p Path, detail string) Path {
	p.Verdict, p.Certain, p.Detail = Open, true, detail
	if r.advised {
		p.Verdict = Advisory
	}
	switch {
	case strings.HasPrefix(p.Path, "udp"):
		p.Change = "refuse UDP but DNS: `actpass redirect`, or a NetworkPolicy; HTTP/3 leaves this way"
	case strings.HasPrefix(p.Path, "dns"):
		p.Change = "let DNS go to the cluster's own resolver only: `actpass redirect`, or a NetworkPolicy"
	case p.Path == "metadata":
		p.Change = "force TCP through the sidecar with `actpass redirect`, which refuses this address, or block it at the node"
	default:
		p.Change = "force TCP through the sidecar: `actpass redirect`, or the annotation actpass.dev/redirect: \"true\""
	}
	return p
}

func (r *runner) enforced(p Path, certain bool, detail string) Path {
	p.Verdict, p.Certain, p.Detail = Enforced, certain, detail
	return p
}

func (r *runner) variables(ctx context.Context) Path {
	p := Path{Path: "variables", Verdict: Open, Certain: true}
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"} {
		if p.Target = proxyAddress(r.env[name]); p.Target != "" {
			break
		}
	}
	if p.Target == "" {
		p.Detail = "no proxy variable is set: a program finds the sidecar only where it is forced to it"
		p.Change = "start it with `actpass run`, or inject the pod, unless the redirect is all you want"
		return p
	}
	d := net.Dialer{Timeout: patience}
	c, err := d.DialContext(ctx, "tcp", p.Target)
	if err != nil {
		p.Detail = "the proxy that HTTPS_PROXY names does not answer: " + err.Error()
		p.Change = "start the sidecar, or correct the variable"
		return p
	}
	defer c.Close()
	if !askHTTP(c, "doctor.invalid") {
		p.Detail = "what HTTPS_PROXY names is not the sidecar"
		p.Change = "let HTTPS_PROXY name the sidecar"
		return p
	}
	p.Verdict, p.Detail = Advisory, "the variables lead to the sidecar; a program may ignore them"
	return p
}
