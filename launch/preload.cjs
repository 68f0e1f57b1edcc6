// Makes an unmodified Node program send its HTTP and HTTPS through the ActPass sidecar.
//
// Node 18 to 22 ignore HTTPS_PROXY, and Node 24 obeys it only in its own default agents, so this file is loaded ahead of
// the program (NODE_OPTIONS=--require) and opens a CONNECT tunnel below every client that Node itself ships:
//
//   fetch, WebSocket, EventSource  by the global undici dispatcher
//   npm's undici                   by its connector, so that an Agent of the program's own is covered too
//   http, https                    by Agent.prototype.createConnection, under custom agents as well
//   http2.connect (TLS)            by its createConnection option
//   npm's ws                       by http.request, for the upgrade that brings its own createConnection
//
// TLS stays the program's: names, pins, rejectUnauthorized and client certificates work on the tunnel as they did on the
// bare connection. Raw net.connect and tls.connect are left alone: databases and mail use them, and speak no HTTP.
//
// It reads ACTPASS_PROXY_URL (http://[agent:key@]host:port), ACTPASS_REVERSE_URL, ACTPASS_API_URL and no_proxy/NO_PROXY once,
// writes nothing, and throws nothing while it loads: a program that cannot be routed must still start.
'use strict';

(() => {
  const loaded = Symbol.for('actpass.launch.preload');
  if (globalThis[loaded]) return;
  try {
    Object.defineProperty(globalThis, loaded, { value: true });
    quietUndiciWarning();
    if (process.env.ACTPASS_PROXY_URL) install();
  } catch {
    // What was patched before the fault stays; the rest goes direct, which `actpass doctor` can see and this file may not say.
  }

  // Some Node 22 releases announce on stderr that NODE_USE_ENV_PROXY is experimental, as soon as this file has run. The
  // program did not ask for it, so that one notice is swallowed.
  function quietUndiciWarning() {
    if (!/^2[23]\./.test(process.versions.node)) return;
    const emit = process.emit;
    process.emit = function (event, warning, ...rest) {
      if (event === 'warning' && warning?.code === 'UNDICI-EHPA') return false;
      return Reflect.apply(emit, this, [event, warning, ...rest]);
    };
  }

  function install() {
    const http = require('http');
    const https = require('https');
    const http2 = require('http2');
    const net = require('net');
    const tls = require('tls');
    const { domainToASCII } = require('url');
    const { addAbortSignal } = require('stream');

    const proxy = endpoint(process.env.ACTPASS_PROXY_URL);
    const credentials = basic(new URL(process.env.ACTPASS_PROXY_URL));
    const direct = bypassRules();

    steps(globalAgents, agents, upgrades, http2Connect, npmUndici, dispatcher);
    // A module that was imported before this file ran holds copies of the exports.
    require('module').syncBuiltinESMExports();

    // One client that cannot be patched must not leave the others unpatched.
    function steps(...all) {
      for (const step of all) {
        try {
          step();
        } catch {}
      }
    }

    // ---- where a connection goes --------------------------------------------------------------------------------------

    function endpoint(text) {
      const url = new URL(text);
      return { host: bare(url.hostname), port: Number(url.port) || (url.protocol === 'https:' ? 443 : 80) };
    }

    function basic(url) {
      if (!url.username && !url.password) return '';
      const pair = `${decodeURIComponent(url.username)}:${decodeURIComponent(url.password)}`;
      return `Proxy-Authorization: Basic ${Buffer.from(pair).toString('base64')}\r\n`;
    }

    // bare is a host without brackets, trailing dot or capitals.
    function bare(host) {
      return host.replace(/^\[(.*)\]$/, '$1').replace(/\.$/, '').toLowerCase();
    }

    // bypassRules answers (host, port) => true for what connects directly: the sidecar's own listeners, and NO_PROXY.
    // Entries are host, .suffix, *.suffix, address, CIDR or *, each with an optional :port.
    function bypassRules() {
      const own = [proxy];
      for (const text of [process.env.ACTPASS_REVERSE_URL, process.env.ACTPASS_API_URL]) {
        try {
          own.push(endpoint(text));
        } catch {}
      }
      const names = [];
      const nets = new net.BlockList();
      let all = false;
      for (const entry of (process.env.no_proxy ?? process.env.NO_PROXY ?? '').split(/[\s,]+/)) {
        if (!entry) continue;
        if (entry === '*') all = true;
        const cidr = /^\[?([0-9a-f.:]+)\]?\/(\d+)$/i.exec(entry);
        if (cidr && net.isIP(cidr[1])) {
          try {
            nets.addSubnet(cidr[1], Number(cidr[2]), net.isIPv6(cidr[1]) ? 'ipv6' : 'ipv4');
          } catch {}
          continue;
        }
        const m = net.isIPv6(entry) ? [entry, entry] : /^(.*?)(?::(\d+))?$/.exec(entry);
        names.push({ host: bare(m[1]).replace(/^\*?\./, ''), port: m[2] ? Number(m[2]) : 0 });
      }
      return (host, port) => {
        host = bare(host);
        if (all || own.some((e) => e.host === host && e.port === port)) return true;
        const family = net.isIP(host);
        if (family && nets.check(host, family === 6 ? 'ipv6' : 'ipv4')) return true;
        return names.some(
          (n) => (!n.port || n.port === port) && (host === n.host || (!family && host.endsWith('.' + n.host))),
        );
      };
    }

    // ---- the tunnel ---------------------------------------------------------------------------------------------------

    // connectVia opens a TCP connection to the sidecar, asks it for host:port, and calls done(err, socket) once. The socket
    // is then a plain net.Socket to the target, with any bytes that followed the answer put back. It returns the socket so
    // that a caller can give up on it.
    function connectVia(host, port, done) {
      const name = net.isIP(bare(host)) ? bare(host) : domainToASCII(bare(host));
      const authority = `${net.isIPv6(name) ? `[${name}]` : name}:${port}`;
      const socket = net.connect(proxy);
      socket.setNoDelay(true);
      let buffer = Buffer.alloc(0);
      let settled = false;
      let patience;

      const settle = (err) => {
        if (settled) return;
        settled = true;
        clearTimeout(patience);
        socket.removeListener('readable', onReadable);
        socket.removeListener('end', onEnd);
        socket.removeListener('close', onEnd);
        socket.removeListener('error', onError);
        if (err) {
          socket.on('error', () => {}); // a late reset of a connection that nobody holds any more
          socket.destroy();
          done(err);
          return;
        }
        done(null, socket);
      };
      const onError = (err) => {
        err.message = `cannot reach the ActPass sidecar at ${proxy.host}:${proxy.port}: ${err.message}`;
        settle(err);
      };
      const onEnd = () => settle(refusal(buffer, authority) || closedEarly(authority));
      const onReadable = () => {
        for (let chunk; (chunk = socket.read()) !== null; ) buffer = Buffer.concat([buffer, chunk]);
        for (;;) {
          const end = buffer.indexOf('\r\n\r\n');
          if (end < 0 && buffer.length <= 65536) return;
          const status = end < 0 ? 0 : statusOf(buffer);
          if (status >= 100 && status < 200 && status !== 101) {
            buffer = buffer.subarray(end + 4);
            continue;
          }
          if (status >= 200 && status < 300) {
            // RFC 9110, section 9.3.6: a 2xx to CONNECT has no body whatever its headers say.
            const rest = buffer.subarray(end + 4);
            settle(null);
            if (rest.length) socket.unshift(rest);
            return;
          }
          const length = /\r\ncontent-length: *(\d+)/i.exec(buffer.toString('latin1', 0, Math.max(end, 0)));
          const whole = length && buffer.length >= end + 4 + Number(length[1]);
          if (end < 0 || whole || buffer.length >= 65536) onEnd();
          else if (!patience) patience = setTimeout(onEnd, 1000); // for the rest of the sentence, not for ever
          return;
        }
      };

      socket.on('error', onError);
      if (!name || /[^\w.:%~!$&'()*+,;=-]/.test(name)) {
        process.nextTick(settle, fault(`${JSON.stringify(host)} is not a host name`, 'ERR_INVALID_ARG_VALUE'));
        return socket;
      }
      socket.on('readable', onReadable);
      socket.on('end', onEnd);
      socket.on('close', onEnd);
      socket.once('connect', () => {
        socket.write(`CONNECT ${authority} HTTP/1.1\r\nHost: ${authority}\r\n${credentials}\r\n`, 'latin1');
      });
      return socket;
    }

    function fault(message, code) {
      return Object.assign(new Error(message), { code });
    }

    function closedEarly(authority) {
      return fault(`the ActPass sidecar closed the connection before it answered CONNECT ${authority}`, 'ECONNRESET');
    }

    function statusOf(buffer) {
      const m = /^HTTP\/1\.[01] (\d{3})[ \r]/.exec(buffer.toString('latin1', 0, 32));
      return m ? Number(m[1]) : 0;
    }

    // refusal is the error for an answer other than 2xx: its message ends in the sidecar's own sentence, the `detail` of a
    // problem+json body (RFC 9457). It is null when buffer holds no answer.
    function refusal(buffer, authority) {
      const status = statusOf(buffer);
      if (!status) return null;
      const text = buffer.toString('utf8', buffer.indexOf('\r\n\r\n') + 4);
      let problem = {};
      try {
        // From brace to brace, so that chunk sizes around the document do not matter.
        problem = JSON.parse(text.slice(text.indexOf('{'), text.lastIndexOf('}') + 1));
      } catch {}
      const sentence = problem.detail || problem.title || http.STATUS_CODES[status] || '';
      return Object.assign(
        fault(`the ActPass sidecar answered CONNECT ${authority} with ${status}: ${sentence}`, 'ERR_ACTPASS_CONNECT'),
        { statusCode: status, reasonCode: problem.reason_code, evidenceEventId: problem.evidence_event_id },
      );
    }

    // Tunnel is a socket that exists at once, as net.connect's does: Node's agents count, time out, abort and unref a socket
    // from the moment it is made. It is connected when the sidecar is reached, so that request timeouts start to run, and
    // keeps back what is written until the sidecar has answered.
    class Tunnel extends net.Socket {
      constructor(host, port, options) {
        super({ signal: undefined });
        this.connecting = true;
        this.open = false;
        this.waiting = null;
        this.ended = false;
        this.raw = connectVia(host, port, (err, raw) => (err ? this.destroy(err) : this.opened(raw)));
        this.raw.once('connect', () => {
          if (this.destroyed) return;
          this.connecting = false;
          this.emit('connect');
          this.emit('ready');
        });
        if (options.keepAlive) this.raw.setKeepAlive(true, options.keepAliveInitialDelay);
        if (options.signal) addAbortSignal(options.signal, this);
      }

      opened(raw) {
        if (this.destroyed) {
          raw.destroy();
          return;
        }
        this.open = true;
        raw.on('data', (chunk) => {
          this._unrefTimer();
          if (!this.push(chunk)) raw.pause();
        });
        raw.on('end', () => {
          this.ended = true;
          this.push(null);
        });
        raw.on('error', (err) => this.destroy(err));
        // After an orderly end, what was pushed is still to be read; the stream then ends and destroys itself.
        raw.on('close', () => this.ended || this.destroy());
        const write = this.waiting;
        this.waiting = null;
        if (write) write.go();
      }

      // whenOpen runs go now, or when the tunnel stands; failed is called instead if it never will.
      whenOpen(go, failed) {
        if (this.open) go();
        else this.waiting = { go, failed };
      }

      _read() {
        if (this.open) this.raw.resume();
      }

      _write(data, encoding, done) {
        this.whenOpen(() => {
          this._unrefTimer();
          this.raw.write(data, encoding, done);
        }, done);
      }

      _writev(chunks, done) {
        this.whenOpen(() => {
          this._unrefTimer();
          this.raw.cork();
          chunks.forEach(({ chunk, encoding }, i) => {
            this.raw.write(chunk, encoding, i === chunks.length - 1 ? done : undefined);
          });
          this.raw.uncork();
        }, done);
      }

      _final(done) {
        this.whenOpen(() => this.raw.end(() => done()), done);
      }

      _destroy(err, done) {
        this.raw.destroy();
        const write = this.waiting;
        this.waiting = null;
        if (write) write.failed(err || fault('the tunnel was closed before it was open', 'ECONNRESET'));
        super._destroy(err, done);
      }

      ref() {
        this.raw.ref();
        return this;
      }

      unref() {
        this.raw.unref();
        return this;
      }

      setNoDelay(on) {
        this.raw.setNoDelay(on);
        return this;
      }

      setKeepAlive(on, delay) {
        this.raw.setKeepAlive(on, delay);
        return this;
      }

      get remoteAddress() {
        return this.raw.remoteAddress;
      }

      get remotePort() {
        return this.raw.remotePort;
      }
    }

    // over finishes a TLS socket that runs on a tunnel: what concerns the TCP connection goes to the tunnel. Without this
    // an idle kept-alive connection would keep the process from ending.
    function over(tunnel, socket, timeout) {
      for (const name of ['ref', 'unref', 'setNoDelay', 'setKeepAlive']) {
        socket[name] = (...args) => {
          tunnel[name](...args);
          return socket;
        };
      }
      if (timeout) socket.setTimeout(timeout);
      return socket;
    }

    // ---- http and https -----------------------------------------------------------------------------------------------

    // target is where an agent's createConnection(port, host, options) or (options) would connect, or null when that is
    // not for the sidecar: a Unix socket, a socket already made, NO_PROXY.
    function target(args, defaultPort) {
      let options = args.find((a) => a !== null && typeof a === 'object') || {};
      options = { ...options };
      if (typeof args[0] === 'number') options.port = args[0];
      if (typeof args[1] === 'string') options.host = args[1];
      if (options.socket || options.path || options.socketPath || options.proxyEnv) return null;
      const host = options.host || 'localhost';
      const port = Number(options.port) || defaultPort;
      return direct(host, port) ? null : { host, port, options };
    }

    function agents() {
      const plain = http.Agent.prototype.createConnection;
      http.Agent.prototype.createConnection = function createConnection(...args) {
        const to = target(args, 80);
        if (!to) return plain.apply(this, args);
        const tunnel = new Tunnel(to.host, to.port, to.options);
        if (to.options.timeout) tunnel.setTimeout(to.options.timeout);
        return tunnel;
      };
      const secure = https.Agent.prototype.createConnection;
      https.Agent.prototype.createConnection = function createConnection(...args) {
        const to = target(args, 443);
        if (!to) return secure.apply(this, args);
        const { signal, ...options } = to.options;
        const tunnel = new Tunnel(to.host, to.port, to.options);
        // The agent's own code does the TLS, and with it names, session cache and verification.
        return over(tunnel, secure.call(this, { ...options, host: to.host, port: to.port, socket: tunnel }), options.timeout);
      };
    }

    // Under NODE_USE_ENV_PROXY=1 newer Nodes make their default agents proxying ones; two tunnels in each other help nobody.
    function globalAgents() {
      for (const module of [http, https]) {
        const { proxyEnv, path, noDelay, ...options } = module.globalAgent.options;
        if (proxyEnv) module.globalAgent = new module.Agent(options);
      }
    }

    // npm's ws asks http.request for an upgrade with a createConnection of its own, which opens a bare socket.
    function upgrades() {
      for (const [module, port] of [[http, 80], [https, 443]]) {
        const original = module.request;
        const open = module.Agent.prototype.createConnection;
        module.request = function request(...args) {
          const i = args.findIndex((a) => a && typeof a === 'object' && !(a instanceof URL));
          const options = args[i];
          if (options && !options.agent && typeof options.createConnection === 'function' && isWebSocket(options.headers)) {
            const own = options.createConnection;
            args[i] = {
              ...options,
              createConnection(o, ...rest) {
                o = { ...o, path: o.socketPath };
                if (!target([o], port)) return own(o, ...rest);
                const servername = o.servername ?? (net.isIP(o.host) ? '' : o.host);
                return open.call(module.globalAgent, { ...o, servername, _agentKey: undefined });
              },
            };
          }
          return Reflect.apply(original, this, args);
        };
      }
    }

    function isWebSocket(headers) {
      if (!headers || typeof headers !== 'object') return false;
      return Object.keys(headers).some((k) => k.toLowerCase() === 'upgrade' && /^websocket$/i.test(headers[k]));
    }

    // ---- http2 --------------------------------------------------------------------------------------------------------

    function http2Connect() {
      const original = http2.connect;
      http2.connect = function connect(authority, options, listener) {
        if (typeof options === 'function') {
          listener = options;
          options = undefined;
        }
        const url = typeof authority === 'string' ? new URL(authority) : authority;
        if (!url || (url.protocol || options?.protocol || 'https:') !== 'https:' || options?.createConnection) {
          return original.call(this, authority, options, listener);
        }
        const host = bare(url.hostname || url.host || 'localhost');
        const port = Number(url.port) || 443;
        if (options?.socket || direct(host, port)) return original.call(this, authority, options, listener);
        const createConnection = () => {
          const tunnel = new Tunnel(host, port, {});
          const secure = { ALPNProtocols: ['h2'], ...options, host, port, socket: tunnel };
          if (!secure.servername && !net.isIP(host)) secure.servername = host;
          return over(tunnel, tls.connect(secure));
        };
        return original.call(this, authority, { ...options, createConnection }, listener);
      };
    }

    // ---- undici: the built-in one behind fetch, and npm's -------------------------------------------------------------

    // viaTunnel is an undici connector. upgrade(params, rawSocket, callback) does the TLS.
    function viaTunnel(params, upgrade, callback) {
      const port = Number(params.port) || (params.protocol === 'https:' ? 443 : 80);
      // The sidecar may hold a CONNECT that a human has to approve, longer than it may be out of reach.
      let socket;
      const limit = (ms) =>
        setTimeout(() => {
          const err = fault(`Connect Timeout Error (${params.hostname}:${port}, ${ms} ms)`, 'UND_ERR_CONNECT_TIMEOUT');
          socket.destroy(Object.assign(err, { name: 'ConnectTimeoutError' }));
        }, ms);
      let timer = limit(10e3);
      const finish = (err, result) => {
        clearTimeout(timer);
        callback(err, result);
      };
      socket = connectVia(params.hostname, port, (err, raw) => {
        if (err) return finish(err);
        clearTimeout(timer);
        if (params.protocol !== 'https:') return finish(null, raw);
        upgrade(params, raw, callback);
      });
      socket.once('connect', () => {
        clearTimeout(timer);
        timer = limit(90e3);
      });
    }

    function dispatcher() {
      const current = Symbol.for('undici.globalDispatcher.1');
      const next = Symbol.for('undici.globalDispatcher.2');
      void globalThis.Headers; // loads Node's undici, which then stands behind the symbol
      const plain = globalThis[next] || globalThis[current];
      const Agent = plain?.constructor; // Node does not export it
      if (Agent?.name !== 'Agent') return;

      const upgrade = (params, raw, callback) => {
        const servername = params.servername || (net.isIP(bare(params.hostname)) ? '' : bare(params.hostname));
        const socket = tls.connect({
          host: bare(params.hostname),
          port: Number(params.port) || 443,
          servername,
          socket: raw,
          ALPNProtocols: ['http/1.1'],
          highWaterMark: 16384,
        });
        const timer = setTimeout(() => {
          const err = fault(`Connect Timeout Error (TLS with ${params.hostname})`, 'UND_ERR_CONNECT_TIMEOUT');
          socket.destroy(Object.assign(err, { name: 'ConnectTimeoutError' }));
        }, 10e3);
        const failed = (err) => {
          clearTimeout(timer);
          callback(err);
        };
        socket.once('error', failed);
        socket.once('secureConnect', () => {
          clearTimeout(timer);
          socket.removeListener('error', failed);
          callback(null, socket);
        });
      };

      class SidecarAgent extends Agent {
        constructor() {
          super({ connect: (params, callback) => viaTunnel(params, upgrade, callback) });
        }

        dispatch(options, handler) {
          return this.isDirect(options.origin) ? plain.dispatch(options, handler) : super.dispatch(options, handler);
        }

        isDirect(origin) {
          try {
            const url = new URL(origin);
            return direct(url.hostname, Number(url.port) || (url.protocol === 'https:' ? 443 : 80));
          } catch {
            return false; // undici's own check of the origin has the better sentence
          }
        }
      }
      const agent = new SidecarAgent();
      for (const symbol of [next, current]) {
        if (globalThis[symbol]) globalThis[symbol] = agent;
      }

      // Under NODE_USE_ENV_PROXY=1 Node sets an EnvHttpProxyAgent after this file has run. It knows fewer forms of NO_PROXY
      // and drops the sidecar's sentence from a refusal, so what it is given goes to ours.
      const base = Object.getPrototypeOf(Agent.prototype);
      const dispatch = base.dispatch;
      base.dispatch = function (options, handler) {
        if (this.constructor.name === 'EnvHttpProxyAgent') return agent.dispatch(options, handler);
        return dispatch.call(this, options, handler);
      };
    }

    // npm's undici gives each Agent, Pool and Client a connector made by lib/core/connect.js; with a connected `httpSocket`
    // it does only the TLS, which is how undici's own ProxyAgent uses it.
    function npmUndici() {
      const { Module } = require('module');
      const compile = Module.prototype._compile;
      Module.prototype._compile = function _compile(content, filename, ...rest) {
        const result = Reflect.apply(compile, this, [content, filename, ...rest]);
        if (/[\\/]undici[^\\/]*[\\/]lib[\\/]core[\\/]connect\.js$/.test(filename) && typeof this.exports === 'function') {
          this.exports = buildConnector(this.exports);
        }
        return result;
      };
    }

    function buildConnector(original) {
      return function (options) {
        const own = original(options);
        if (options?.socketPath) return own;
        return function connect(params, callback) {
          const port = Number(params.port) || (params.protocol === 'https:' ? 443 : 80);
          if (params.httpSocket || direct(params.hostname, port)) return own(params, callback);
          viaTunnel(params, (p, raw, done) => own({ ...p, httpSocket: raw }, done), callback);
        };
      };
    }
  }
})();
