// Preloaded into servers that would listen on every interface: they listen on 127.0.0.1.
'use strict';
const net = require('net');
const { listen } = net.Server.prototype;
net.Server.prototype.listen = function (port, ...rest) {
  const done = rest.find((a) => typeof a === 'function');
  return Reflect.apply(listen, this, [{ port: Number(port?.port ?? port), host: '127.0.0.1' }, ...(done ? [done] : [])]);
};
