package launch_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/actpass/sidecar/launch"
)

// lib is what the scripts share: a promise for a request by the callback API, and one line of output for an answer.
const lib = `
const line = (e) => [e.door, e.method, (e.tls ? 'https://' : 'http://') + e.host + e.path, e.proto, e.bytes].join(' ');
const ask = (module, url, options = {}, body) => new Promise((resolve, reject) => {
  const req = module.request(...(typeof url === 'string' ? [url, options] : [url]), (res) => {
    let text = '';
    res.setEncoding('utf8').on('data', (d) => (text += d)).on('end', () => resolve(JSON.parse(text))).on('error', reject);
  });
  req.on('error', reject);
  req.end(body);
});
`

// scripts are programs that know nothing of the sidecar, and what they print when all they send goes through it.
var scripts = []struct {
	name, file, text string
	want             string
	once             []string // targets for which exactly one CONNECT is expected: connections are kept and shared
	few              []string // targets for which undici may open a second one when it finds the first still busy
	targets          []string // targets for which there is at least one
}{
	{
		name: "fetch", file: "a.mjs",
		text: `
for (const path of ['/1', '/2']) console.log(line(await (await fetch('https://api.test' + path)).json()));
for (let i = 0; i < 20; i++) await (await fetch('https://often.test/')).json();
console.log(line(await (await fetch('http://plain.test/p', { method: 'POST', body: 'abc' })).json()));
console.log(line(await (await fetch('https://api.test:8443/')).json()));
console.log((await (await fetch('https://api.test/big')).arrayBuffer()).byteLength);
`,
		want: `
connect GET https://api.test/1 HTTP/1.1 0
connect GET https://api.test/2 HTTP/1.1 0
connect POST http://plain.test/p HTTP/1.1 3
connect GET https://api.test:8443/ HTTP/1.1 0
4194304`,
		once:    []string{"plain.test:80", "api.test:8443"},
		few:     []string{"often.test:443"},
		targets: []string{"api.test:443"},
	},
	{
		name: "https and http with their default agents", file: "a.cjs",
		text: `
const http = require('http'), https = require('https');
(async () => {
  console.log(line(await ask(https, 'https://api.test/1')));
  console.log(line(await ask(https, 'https://api.test/2', { method: 'PUT' }, Buffer.alloc(4 << 20))));
  console.log(line(await ask(http, 'http://plain.test/1')));
  console.log(line(await ask(http, 'http://plain.test/2', { method: 'PUT' }, Buffer.alloc(4 << 20))));
  console.log(line(await ask(https, 'https://bare.test/', { agent: false })));
  console.log(line(await ask(http, 'http://bare.test/', { agent: false })));
})();
`,
		want: `
connect GET https://api.test/1 HTTP/1.1 0
connect PUT https://api.test/2 HTTP/1.1 4194304
connect GET http://plain.test/1 HTTP/1.1 0
connect PUT http://plain.test/2 HTTP/1.1 4194304
connect GET https://bare.test/ HTTP/1.1 0
connect GET http://bare.test/ HTTP/1.1 0`,
		targets: []string{"api.test:443", "plain.test:80", "bare.test:443", "bare.test:80"},
	},
	{
		// maxSockets must bound the connections while they are being opened, too.
		name: "custom agents that keep alive", file: "a.cjs",
		text: `
const http = require('http'), https = require('https');
class Mine extends https.Agent {
  createConnection(options, cb) { return super.createConnection(options, cb); }
}
(async () => {
  const agents = [[https, 'https://one.test/', new https.Agent({ keepAlive: true, maxSockets: 1 })],
    [https, 'https://sub.test/', new Mine({ keepAlive: true, maxSockets: 1 })],
    [http, 'http://one.test/', new http.Agent({ keepAlive: true, maxSockets: 1 })]];
  for (const [module, url, agent] of agents) {
    const all = await Promise.all([1, 2, 3, 4].map((n) => ask(module, url + n, { agent })));
    console.log(all.map(line).join('\n'));
  }
  // The kept connections are idle now and must not keep the process from ending.
})();
`,
		want: `
connect GET https://one.test/1 HTTP/1.1 0
connect GET https://one.test/2 HTTP/1.1 0
connect GET https://one.test/3 HTTP/1.1 0
connect GET https://one.test/4 HTTP/1.1 0
connect GET https://sub.test/1 HTTP/1.1 0
connect GET https://sub.test/2 HTTP/1.1 0
connect GET https://sub.test/3 HTTP/1.1 0
connect GET https://sub.test/4 HTTP/1.1 0
connect GET http://one.test/1 HTTP/1.1 0
connect GET http://one.test/2 HTTP/1.1 0
connect GET http://one.test/3 HTTP/1.1 0
connect GET http://one.test/4 HTTP/1.1 0`,
		once: []string{"one.test:443", "sub.test:443", "one.test:80"},
	},
	{
		name: "modules with named imports", file: "a.mjs",
		text: `
import { request } from 'node:https';
import { connect } from 'node:http2';
console.log(line(await ask({ request }, 'https://api.test/')));
const session = connect('https://h2.test');
const stream = session.request({ ':path': '/two' });
let text = '';
for await (const chunk of stream) text += chunk;
session.close();
console.log(line(JSON.parse(text)));
`,
		want: `
connect GET https://api.test/ HTTP/1.1 0
connect GET https://h2.test:443/two HTTP/2.0 0`,
		once: []string{"api.test:443", "h2.test:443"},
	},
	{
		name: "http2", file: "a.cjs",
		text: `
const http2 = require('http2');
const session = http2.connect('https://h2.test:8443');
const one = (path, body) => new Promise((resolve, reject) => {
  const stream = session.request({ ':path': path, ':method': body ? 'POST' : 'GET' });
  const chunks = [];
  stream.on('data', (d) => chunks.push(d)).on('end', () => resolve(Buffer.concat(chunks))).on('error', reject);
  stream.end(body);
});
(async () => {
  const [a, b, c] = await Promise.all([one('/a'), one('/b', Buffer.alloc(4 << 20)), one('/big')]);
  console.log(line(JSON.parse(a)) + '\n' + line(JSON.parse(b)) + '\n' + c.length);
  session.close();
})();
`,
		want: `
connect GET https://h2.test:8443/a HTTP/2.0 0
connect POST https://h2.test:8443/b HTTP/2.0 4194304
4194304`,
		once: []string{"h2.test:8443"},
	},
	{
		name: "worker threads and forked processes", file: "a.cjs",
		text: `
const { Worker, isMainThread, parentPort } = require('worker_threads');
const { fork } = require('child_process');
const work = async () => [line(await (await fetch('https://api.test/fetch')).json()), line(await ask(require('https'), 'https://api.test/https'))];
if (!isMainThread) work().then((r) => parentPort.postMessage(r));
else if (process.send) work().then((r) => process.send(r));
else {
  const say = (who) => (lines) => new Promise((r) => { console.log(lines.map((l) => who + ' ' + l).join('\n')); r(); });
  const worker = new Worker(__filename);
  worker.once('message', async (lines) => {
    await say('worker')(lines);
    fork(__filename).once('message', say('fork'));
  });
}
`,
		want: `
worker connect GET https://api.test/fetch HTTP/1.1 0
worker connect GET https://api.test/https HTTP/1.1 0
fork connect GET https://api.test/fetch HTTP/1.1 0
fork connect GET https://api.test/https HTTP/1.1 0`,
		targets: []string{"api.test:443"},
	},
	{
		// What ws does: an upgrade with a createConnection of its own and no agent.
		name: "websocket upgrades", file: "a.cjs",
		text: `
const http = require('http'), https = require('https'), net = require('net'), tls = require('tls');
const upgrade = (module, url, createConnection) => new Promise((resolve, reject) => {
  const u = new URL(url);
  const req = module.request({ host: u.hostname, port: u.port || undefined, path: '/', createConnection,
    defaultPort: module === https ? 443 : 80, headers: { Connection: 'Upgrade', Upgrade: 'websocket' } });
  req.on('error', reject).on('upgrade', (res, socket, head) => {
    let text = head.toString();
    socket.on('data', (d) => (text += d)).on('end', () => resolve(text)).on('error', reject);
  }).end();
});
(async () => {
  console.log(await upgrade(https, 'https://ws.test', (o) => tls.connect({ ...o, path: undefined, servername: o.host })));
  console.log(await upgrade(http, 'http://ws.test', (o) => net.connect({ ...o, path: undefined })));
})();
`,
		want: `
hello ws.test via connect
hello ws.test via connect`,
		once: []string{"ws.test:443", "ws.test:80"},
	},
	{
		// npm's undici as far as it matters here: an Agent's connector is made by lib/core/connect.js, and does only the TLS
		// when it is given a socket.
		name: "the connector of npm's undici", file: "a.cjs",
		text: `
const { mkdirSync, writeFileSync } = require('fs'), { join } = require('path');
const dir = join(__dirname, 'node_modules', 'undici', 'lib', 'core');
mkdirSync(dir, { recursive: true });
writeFileSync(join(dir, 'connect.js'), ` + "`" + `
const net = require('net'), tls = require('tls');
module.exports = (options) => ({ hostname, protocol, port, httpSocket }, callback) => {
  const socket = protocol === 'https:'
    ? tls.connect({ ...options, host: hostname, port: port || 443, servername: hostname, socket: httpSocket })
    : net.connect(port || 80, hostname);
  socket.once(protocol === 'https:' ? 'secureConnect' : 'connect', () => callback(null, socket)).once('error', callback);
};` + "`" + `);
const connect = require(join(dir, 'connect.js'))({ rejectUnauthorized: true });
for (const protocol of ['https:', 'http:', 'https:']) {
  const hostname = protocol === 'https:' ? 'agent.test' : 'refused.test';
  connect({ hostname, protocol, port: '' }, (err, socket) => {
    if (err) return console.log(err.statusCode);
    socket.end('GET / HTTP/1.0\r\nHost: agent.test\r\n\r\n');
    let text = '';
    socket.on('data', (d) => (text += d)).on('end', () => console.log(line(JSON.parse(text.split('\r\n\r\n')[1]))));
  });
}
`,
		want: `
403
connect GET https://agent.test/ HTTP/1.0 0
connect GET https://agent.test/ HTTP/1.0 0`,
		targets: []string{"agent.test:443", "refused.test:80"},
	},
	{
		name: "refusals carry the status and the sentence", file: "a.mjs",
		text: `
import http from 'http'; import https from 'https'; import http2 from 'http2';
const say = (e) => console.log(e.code, e.statusCode, e.reasonCode, e.message);
await fetch('https://refused.test/').catch((e) => say(e.cause));
await fetch('http://chunked.test/').catch((e) => say(e.cause));
await ask(https, 'https://refused.test/').catch(say);
await ask(http, 'http://refused.test/').catch(say);
await new Promise((r) => http2.connect('https://refused.test').on('error', (e) => r(say(e))));
await ask(https, 'https://hangup.test/').catch(say);
await ask(http, 'http://api.test/', { hostname: 'a b' }).catch(say);
`,
		want: `
ERR_ACTPASS_CONNECT 403 net.denied the ActPass sidecar answered CONNECT refused.test:443 with 403: Policy no_tunnels v1 denies http.connect.
ERR_ACTPASS_CONNECT 403 net.denied the ActPass sidecar answered CONNECT chunked.test:80 with 403: Policy no_tunnels v1 denies http.connect.
ERR_ACTPASS_CONNECT 403 net.denied the ActPass sidecar answered CONNECT refused.test:443 with 403: Policy no_tunnels v1 denies http.connect.
ERR_ACTPASS_CONNECT 403 net.denied the ActPass sidecar answered CONNECT refused.test:80 with 403: Policy no_tunnels v1 denies http.connect.
ERR_ACTPASS_CONNECT 403 net.denied the ActPass sidecar answered CONNECT refused.test:443 with 403: Policy no_tunnels v1 denies http.connect.
ECONNRESET undefined undefined the ActPass sidecar closed the connection before it answered CONNECT hangup.test:443
ERR_INVALID_ARG_VALUE undefined undefined "a b" is not a host name`,
		targets: []string{"refused.test:443", "refused.test:80"},
	},
	{
		name: "aborts and timeouts end a connection that is being opened", file: "a.mjs",
		text: `
import http from 'http'; import https from 'https';
const start = Date.now();
const signal = () => AbortSignal.timeout(100);
await fetch('https://silent.test/', { signal: signal() }).catch((e) => console.log('fetch', e.name));
await ask(https, 'https://silent.test/', { signal: signal() }).catch((e) => console.log('https', e.name));
await ask(http, 'http://silent.test/', { signal: signal() }).catch((e) => console.log('http', e.name));
for (const module of [http, https]) {
  const scheme = module === http ? 'http' : 'https';
  await new Promise((resolve) => {
    const req = module.get(scheme + '://silent.test/', { timeout: 100 });
    req.on('timeout', () => req.destroy(new Error('too slow'))).on('error', (e) => resolve(console.log(scheme, e.message)));
  });
  await new Promise((resolve) => {
    const req = module.get(scheme + '://silent.test/');
    req.setTimeout(100, () => req.destroy(new Error('too slow'))).on('error', (e) => resolve(console.log(scheme, e.message)));
  });
}
for (const module of [http, https]) {
  const scheme = module === http ? 'http' : 'https';
  await new Promise((resolve) => {
    const req = module.request(scheme + '://silent.test/', { method: 'POST', agent: new module.Agent({ timeout: 100 }) });
    req.on('timeout', () => req.destroy(new Error('agent too slow'))).on('error', (e) => resolve(console.log(scheme, e.message)));
    req.flushHeaders();
    if (module === http) req.write('x', (e) => console.log('write', e.message));
  });
}
console.log(Date.now() - start < 5000 ? 'soon' : 'late');
process.exit(); // fetch leaves its attempt to its own limit
`,
		want: `
fetch TimeoutError
https AbortError
http AbortError
http too slow
http too slow
https too slow
https too slow
write agent too slow
http agent too slow
https agent too slow
soon`,
		targets: []string{"silent.test:443", "silent.test:80"},
	},
	{
		name: "certificates are verified as before", file: "a.mjs",
		text: `
import https from 'https'; import http2 from 'http2';
const code = (e) => console.log((e.cause ?? e).code);
await fetch('https://misnamed.test/').catch(code);
await ask(https, 'https://misnamed.test/').catch(code);
await new Promise((r) => http2.connect('https://misnamed.test').on('error', (e) => r(code(e))));
console.log(line(await ask(https, 'https://misnamed.test/', { rejectUnauthorized: false })));
console.log(line(await ask(https, 'https://misnamed.test/', { servername: 'other.test' })));
await ask(https, 'https://api.test/', { agent: new https.Agent({ checkServerIdentity: () => new Error('pinned') }) }).catch((e) => console.log(e.message));
`,
		want: `
ERR_TLS_CERT_ALTNAME_INVALID
ERR_TLS_CERT_ALTNAME_INVALID
ERR_TLS_CERT_ALTNAME_INVALID
connect GET https://misnamed.test/ HTTP/1.1 0
connect GET https://misnamed.test/ HTTP/1.1 0
pinned`,
		targets: []string{"misnamed.test:443"},
	},
}

// undiciNotice is what some Node 22 releases print in a worker thread, before a preload is run there.
var undiciNotice = regexp.MustCompile(`(?m)^.*\[UNDICI-EHPA\] Warning: .*\n.*--trace-warnings.*\n`)

func TestNodeGoesThroughTheSidecar(t *testing.T) {
	node := need(t, "node")
	for _, tt := range scripts {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newSidecar(t)
			stdout, stderr := run(t, prepared(t, s, nil), node, script(t, tt.file, lib+tt.text))
			if got, want := strings.TrimSpace(stdout), strings.TrimSpace(tt.want); got != want {
				t.Errorf("the program printed\n%s\nwant\n%s", got, want)
			}
			if stderr = undiciNotice.ReplaceAllString(stderr, ""); stderr != "" {
				t.Errorf("standard error is not empty: %s", stderr)
			}
			s.wantTargets(t, tt.targets...)
			for _, target := range tt.once {
				if n := s.count(target); n != 1 {
					t.Errorf("%d CONNECTs to %s, want 1", n, target)
				}
			}
			for _, target := range tt.few {
				if n := s.count(target); n < 1 || n > 2 {
					t.Errorf("%d CONNECTs to %s, want 1 or 2", n, target)
				}
			}
		})
	}
}

// Without the environment nothing of the above works, so the tests above can fail.
func TestNodeAloneNeitherGoesNorTrusts(t *testing.T) {
	t.Parallel()
	node := need(t, "node")
	s := newSidecar(t)
	origin := s.origin(t)
	text := script(t, "a.mjs", lib+`
import https from 'https';
const code = (e) => console.log((e.cause ?? e).code);
await fetch('https://api.test/').catch((e) => console.log(/^(ENOTFOUND|EAI_AGAIN)$/.test(e.cause.code)));
await fetch('https://`+origin+`/').then((r) => console.log(r.status)).catch(code);
await ask(https, 'https://`+origin+`/').then((e) => console.log(line(e))).catch(code);
`)
	stdout, _ := run(t, clean(), node, text)
	if want := "true\nUNABLE_TO_VERIFY_LEAF_SIGNATURE\nUNABLE_TO_VERIFY_LEAF_SIGNATURE\n"; stdout != want {
		t.Errorf("without the environment: %q, want %q", stdout, want)
	}
	if got := s.targets(); len(got) != 0 {
		t.Fatalf("the sidecar saw %q", got)
	}

	// Loopback is reached directly by default, and our CA is trusted there.
	stdout, _ = run(t, prepared(t, s, nil), node, text)
	if want := "false\n"; strings.HasPrefix(stdout, want) {
		t.Errorf("with the environment: %q", stdout)
	}
	if want := "200\ndirect GET https://" + origin + "/ HTTP/1.1 0\n"; !strings.HasSuffix(stdout, want) {
		t.Errorf("with the environment: %q, want it to end in %q", stdout, want)
	}
	if n := s.count(origin); n != 0 {
		t.Errorf("%d CONNECTs to loopback", n)
	}

	// With an empty list it is not.
	stdout, _ = run(t, prepared(t, s, func(o *launch.Options) { o.NoProxy = []string{} }), node, text)
	if want := "200\nconnect GET https://" + origin + "/ HTTP/1.1 0\n"; !strings.HasSuffix(stdout, want) {
		t.Errorf("with an empty NoProxy: %q, want it to end in %q", stdout, want)
	}
}

func TestNodeNoProxyEntries(t *testing.T) {
	t.Parallel()
	node := need(t, "node")
	origin := newSidecar(t)
	_, port, _ := strings.Cut(origin.origin(t), ":")
	for _, tt := range []struct {
		entries         string
		direct, proxied []string
	}{
		{"localhost", []string{"localhost", "LOCALHOST", "api.localhost"}, []string{"notlocalhost", "127.0.0.1"}},
		{".localhost,127.0.0.1 127.1.0.0/30,::1", []string{"api.localhost", "127.0.0.1", "127.1.0.2", "[::1]"}, []string{"127.0.0.2", "127.1.0.4", "[::2]"}},
		{"*.localhost,127.0.0.2:" + port + ",127.0.0.1:1,10.0.0.0/99", []string{"api.localhost", "127.0.0.2"}, []string{"127.0.0.1", "10.0.0.1"}},
		{"*", []string{"anything.test"}, nil},
		{"", nil, []string{"localhost"}},
	} {
		t.Run(tt.entries, func(t *testing.T) {
			t.Parallel()
			s := newSidecar(t)
			env := prepared(t, s, func(o *launch.Options) { o.NoProxy = []string{tt.entries} })
			// fetch and http must agree. Who is reached directly does not matter here: mostly nobody.
			args := []string{"-e", `const {get} = require('http');
				const both = (url) => [fetch(url), new Promise((r, j) => get(url, r).on('error', j))];
				Promise.allSettled(process.argv.slice(1).flatMap(both)).then(() => process.exit());
				setTimeout(() => process.exit(), 20000)`}
			for _, host := range slices.Concat(tt.direct, tt.proxied) {
				args = append(args, "http://"+host+":"+port+"/")
			}
			_, stderr := run(t, env, node, args...)
			for _, host := range tt.direct {
				if n := s.count(strings.ToLower(host) + ":" + port); n != 0 {
					t.Errorf("%d of 2 requests to %s went through the sidecar, want 0", n, host)
				}
			}
			for _, host := range tt.proxied {
				if n := s.count(host + ":" + port); n != 2 {
					t.Errorf("%d of 2 requests to %s went through the sidecar, want 2", n, host)
				}
			}
			if stderr != "" {
				t.Errorf("standard error: %s", stderr)
			}
		})
	}
}

// A client that speaks to a proxy itself, as axios does, and one that is given the reverse listener for a base URL reach the
// sidecar's listeners, not a tunnel to them.
func TestNodeReachesTheListenersDirectly(t *testing.T) {
	t.Parallel()
	node := need(t, "node")
	s, reverse := newSidecar(t), newSidecar(t)
	env := prepared(t, s, func(o *launch.Options) { o.NoProxy = []string{}; o.ReverseURL = reverse.URL })
	stdout, _ := run(t, env, node, script(t, "a.mjs", lib+`
import http from 'http';
const proxy = new URL(process.env.HTTP_PROXY);
console.log(line(await ask(http, { host: proxy.hostname, port: proxy.port, path: 'http://axios.test/', headers: { Host: 'axios.test' } })));
console.log((await (await fetch(process.env.ACTPASS_REVERSE_URL + '/stripe')).json()).door);
`))
	if want := "forward GET http://axios.test/ HTTP/1.1 0\ndirect\n"; stdout != want || len(s.targets()) != 0 {
		t.Errorf("stdout %q, want %q; the sidecar saw %q", stdout, want, s.targets())
	}
}

func TestNodeKeepsWhatTheParentAsked(t *testing.T) {
	t.Parallel()
	node := need(t, "node")
	s := newSidecar(t)
	other := script(t, "other file.cjs", "globalThis.other = fetch('https://api.test/early').then((r) => r.json());")
	env := prepared(t, s, func(o *launch.Options) {
		o.ProxyURL = strings.Replace(o.ProxyURL, "http://", "http://agent%40home:sk_live_x@", 1)
		o.Environ = append(o.Environ, `NODE_OPTIONS=--no-deprecation --require "`+other+`"`)
	})
	stdout, stderr := run(t, env, node, "-e", "globalThis.other.then((e) => console.log(process.noDeprecation, e.path))")
	if stdout != "true /early\n" || stderr != "" {
		t.Errorf("stdout %q, stderr %q", stdout, stderr)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if want := "Basic YWdlbnRAaG9tZTpza19saXZlX3g="; len(s.connects) != 1 || s.connects[0].auth != want {
		t.Errorf("the sidecar saw %v, want one CONNECT with %q", s.connects, want)
	}
}

// A preload that cannot do its work must not stop the program.
func TestNodePreloadNeverThrows(t *testing.T) {
	t.Parallel()
	node := need(t, "node")
	s := newSidecar(t)
	base := prepared(t, s, nil)
	for _, extra := range []string{"ACTPASS_PROXY_URL=", "ACTPASS_PROXY_URL=:::", "NO_PROXY=,[::,/,1/2/3"} {
		stdout, stderr := run(t, append(base[:len(base):len(base)], extra), node, "-e", "console.log('started')")
		if stdout != "started\n" || stderr != "" {
			t.Errorf("with %s: stdout %q, stderr %q", extra, stdout, stderr)
		}
	}
}
