// One refund with the Stripe SDK as it comes from npm. Prints one JSON line:
// what the SDK gave, or the error that it raised.
//
//   node refund.mjs AMOUNT [IDEMPOTENCY_KEY]
//
// STRIPE_BASE=http://HOST:PORT sends it to a base URL instead of
// https://api.stripe.com; STRIPE_RETRIES sets the SDK's own retries.
import http from 'node:http';
import Stripe from 'stripe';

const [amount, key] = process.argv.slice(2);
const options = { telemetry: false };
if (process.env.STRIPE_RETRIES) options.maxNetworkRetries = Number(process.env.STRIPE_RETRIES);
if (process.env.STRIPE_BASE) {
  const base = new URL(process.env.STRIPE_BASE);
  Object.assign(options, { protocol: 'http', host: base.hostname, port: base.port });
  // Not every resolver knows names below .localhost (RFC 6761 section 6.3).
  options.httpAgent = new http.Agent({
    lookup: (_name, opt, done) => (opt.all ? done(null, [{ address: '127.0.0.1', family: 4 }]) : done(null, '127.0.0.1', 4)),
  });
}
const stripe = new Stripe('sk_test_123', options);
let out;
try {
  const refund = await stripe.refunds.create(
    { charge: 'ch_123', currency: 'usd', amount: Number(amount) },
    key ? { idempotencyKey: key } : undefined,
  );
  out = { ok: true, object: refund.object, id: refund.id };
} catch (e) {
  out = { ok: false, type: e.type, constructor: e.constructor.name, status: e.statusCode, code: e.code, message: e.message };
}
out.api = process.env.ACTPASS_API_URL;
process.stdout.write(JSON.stringify(out) + '\n');
