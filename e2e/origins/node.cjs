// What Node understood of a request, as JSON. Usage: node node.cjs PORT
'use strict';
const http = require('http');
const querystring = require('querystring');
let qs;
try { qs = require('qs'); } catch { /* the other readers remain */ }

const read = (f) => { try { return f(); } catch (e) { return { error: String(e) }; } };

function fields(s) {
  const out = {
    URLSearchParams: { pairs: [...new URLSearchParams(s)] },
    querystring: {
      pairs: Object.entries(querystring.parse(s, '&', '=', { maxKeys: 0 })).flatMap(([k, v]) => [].concat(v).map((e) => [k, e])),
    },
  };
  // As Express' body parser calls it.
  if (qs) out.qs = read(() => ({ nested: qs.parse(s, { allowPrototypes: true, arrayLimit: 100, depth: 32, parameterLimit: 1000 }) }));
  return out;
}

const server = http.createServer((req, res) => {
  const chunks = [];
  req.on('data', (c) => chunks.push(c));
  req.on('end', () => {
    const text = Buffer.concat(chunks).toString('utf8');
    const out = read(() => {
      const u = new URL(`http://${req.headers.host}${req.url}`);
      const o = { method: req.method, host: u.hostname, path: decodeURIComponent(u.pathname), query: fields(u.search.slice(1)) };
      const type = (req.headers['content-type'] || '').split(';')[0].trim().toLowerCase();
      if (type === 'application/x-www-form-urlencoded') o.body = fields(text);
      if (/^application\/(.*\+)?(x-amz-)?json/.test(type)) o.body = { 'JSON.parse': read(() => ({ json: JSON.parse(text) })) };
      return o;
    });
    const body = JSON.stringify(out);
    res.writeHead(out.error ? 400 : 200, { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body) });
    res.end(body);
  });
});
server.listen(Number(process.argv[2]), '127.0.0.1');
