// Usage: node held.mjs stripe|openai|octokit|aws|mcp
// Makes one call with an SDK as it comes for each line {"n": NUMBER, "key": IDEMPOTENCY_KEY or ""} on standard input,
// and answers it with what the caller got: {"ok", "value"} or {"ok", "status", "name", "message"}.
import { createInterface } from 'node:readline';

const clients = {
  async stripe() {
    const { default: Stripe } = await import('stripe');
    const stripe = new Stripe('sk_test_123');
    return async (n, key) => (await stripe.refunds.create({ charge: 'ch_123', currency: 'usd', amount: n }, key ? { idempotencyKey: key } : undefined)).object;
  },
  async openai() {
    const { default: OpenAI } = await import('openai');
    const ai = new OpenAI({ apiKey: 'sk-test' });
    return async (n) => (await ai.chat.completions.create({ model: 'small', messages: [{ role: 'user', content: `hello ${n}` }] })).choices[0].message.content;
  },
  async octokit() {
    const { Octokit } = await import('@octokit/rest');
    const { retry } = await import('@octokit/plugin-retry');
    const o = new (Octokit.plugin(retry))({ auth: 'ghp_test' });
    return async (n) => (await o.rest.issues.createComment({ owner: 'acme', repo: 'shop', issue_number: n, body: 'done' })).data.id;
  },
  async aws() {
    const { S3Client, PutObjectCommand } = await import('@aws-sdk/client-s3');
    const s3 = new S3Client({ region: 'us-east-1', credentials: { accessKeyId: 'AKIATEST', secretAccessKey: 'secret' } });
    return async (n) => (await s3.send(new PutObjectCommand({ Bucket: 'acme', Key: `report-${n}`, Body: 'hello' }))).ETag;
  },
  async mcp() {
    const { Client } = await import('@modelcontextprotocol/sdk/client/index.js');
    const { StreamableHTTPClientTransport } = await import('@modelcontextprotocol/sdk/client/streamableHttp.js');
    const client = new Client({ name: 'e2e', version: '1.0.0' });
    await client.connect(new StreamableHTTPClientTransport(new URL('https://everything.example.test/mcp')));
    return async (n) => (await client.callTool({ name: 'echo', arguments: { message: `hello ${n}` } }, undefined, { onprogress() {} })).content[0].text;
  },
};

const call = await clients[process.argv[2]]();
for await (const line of createInterface({ input: process.stdin })) {
  const { n, key } = JSON.parse(line);
  let said;
  try {
    said = { ok: true, value: String(await call(n, key)) };
  } catch (e) {
    const status = e.statusCode ?? e.status ?? e.$metadata?.httpStatusCode ?? e.code;
    said = { ok: false, status: Number(status) || 0, name: e.constructor.name, message: String(e.message) };
  }
  process.stdout.write(JSON.stringify(said) + '\n');
}
process.exit(0);
