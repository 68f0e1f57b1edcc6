// Usage: node realclients.mjs octokit|openai|mcp|s3|graphql|graphqlRequest
// Makes calls with an SDK as it comes and prints, by the call's name, what came of each: {ok, value} or {ok, status, name, message}.
const out = {};

async function attempt(name, f) {
  try {
    out[name] = { ok: true, value: await f() };
  } catch (e) {
    const status = e.status ?? e.response?.status ?? e.code ?? e.$metadata?.httpStatusCode;
    out[name] = { ok: false, status: Number(status) || 0, name: e.name || e.constructor.name, message: String(e.message), attempts: e.$metadata?.attempts };
  }
}

const clients = {
  async octokit() {
    const { Octokit } = await import('@octokit/rest');
    const quiet = () => {};
    const o = new Octokit({ auth: 'ghp_test', log: { debug: quiet, info: quiet, warn: quiet, error: quiet } });
    const issue = { owner: 'acme', repo: 'shop', issue_number: 7 };
    await attempt('comment', async () => (await o.rest.issues.createComment({ ...issue, body: 'looks "good" – é' })).data.id);
    await attempt('delete', async () => (await o.rest.repos.delete({ owner: 'acme', repo: 'shop' })).status);
    await attempt('query', async () => (await o.graphql('query($n: String!) { repository(owner: "acme", name: $n) { id } }', { n: 'shop' })).repository.id);
    await attempt('mutation', async () => o.graphql('mutation { innocent: deleteIssue(input: {issueId: "I_1"}) { clientMutationId } }'));
  },
  async openai() {
    const { default: OpenAI } = await import('openai');
    const ai = new OpenAI({ apiKey: 'sk-test' });
    const messages = [{ role: 'user', content: 'hello' }];
    await attempt('chat', async () => (await ai.chat.completions.create({ model: 'small', messages })).choices[0].message.content);
    await attempt('stream', async () => {
      let text = '';
      for await (const part of await ai.chat.completions.create({ model: 'small', messages, stream: true })) text += part.choices[0].delta.content;
      return text;
    });
    await attempt('large', async () => ai.chat.completions.create({ model: 'large', messages }));
    await attempt('file', async () => ai.files.del?.('file-1') ?? ai.files.delete('file-1'));
  },
  async mcp() {
    const { Client } = await import('@modelcontextprotocol/sdk/client/index.js');
    const { StreamableHTTPClientTransport } = await import('@modelcontextprotocol/sdk/client/streamableHttp.js');
    const client = new Client({ name: 'e2e', version: '1.0.0' });
    await client.connect(new StreamableHTTPClientTransport(new URL('https://everything.example.test/mcp')));
    await attempt('list', async () => (await client.listTools()).tools.map((t) => t.name));
    const call = async (name, args) => (await client.callTool({ name, arguments: args })).content[0].text;
    await attempt('echo', () => call('echo', { message: 'hello' }));
    await attempt('sum', () => call('get-sum', { a: 2, b: 3 }));
    await attempt('large sum', () => call('get-sum', { a: 2000, b: 3 }));
    await attempt('env', () => call('get-env', {}));
    await attempt('echo again', () => call('echo', { message: 'still here' }));
    await client.close();
  },
  async s3() {
    const { S3Client, PutObjectCommand, GetObjectCommand, DeleteObjectCommand } = await import('@aws-sdk/client-s3');
    const s3 = new S3Client({ region: 'us-east-1', credentials: { accessKeyId: 'AKIATEST', secretAccessKey: 'secret/of+test' } });
    const object = { Bucket: 'ledger', Key: 'a dir/ü+1 (copy).txt' };
    await attempt('put', async () => (await s3.send(new PutObjectCommand({ ...object, Body: 'amount=4900', Metadata: { note: 'a  b' } }))).ETag);
    await attempt('get', async () => (await s3.send(new GetObjectCommand(object))).Body.transformToString());
    await attempt('delete', async () => (await s3.send(new DeleteObjectCommand(object))).$metadata.httpStatusCode);
    await attempt('get again', async () => (await s3.send(new GetObjectCommand(object))).Body.transformToString());
  },
  async graphqlRequest() {
    const { GraphQLClient, gql } = await import('graphql-request');
    const client = new GraphQLClient('https://api.github.com/graphql', { headers: { authorization: 'Bearer ghp_test' } });
    await attempt('query', async () => (await client.request(gql`query Repo($name: String!) { repo: repository(owner: "acme", name: $name) { id } }`, { name: 'shop' })).repo.id);
    await attempt('mutation', () => client.request(gql`mutation Remove($id: ID!) { innocent: deleteIssue(input: { issueId: $id }) { clientMutationId } }`, { id: 'I_1' }));
    await attempt('batch', () => client.batchRequests([
      { document: gql`{ viewer { id } }` },
      { document: gql`mutation { deleteIssue(input: { issueId: "I_2" }) { clientMutationId } }` },
    ]));
    await attempt('query again', async () => (await client.request(gql`{ repo: repository(owner: "acme", name: "shop") { id } }`)).repo.id);
  },
  async graphql() {
    const ask = async (body) => {
      const r = await fetch('https://shop.example.test/graphql', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) });
      const answer = await r.json();
      if (!r.ok) throw Object.assign(new Error(answer.detail ?? JSON.stringify(answer)), { status: r.status });
      return answer.data;
    };
    await attempt('query', () => ask({ query: 'query Q($id: ID!) { p: product(id: $id) { id } }', variables: { id: 'p1' } }));
    await attempt('mutation', () => ask({ query: 'mutation { refundOrder(id: "o1") { id } }' }));
    await attempt('hidden', () => ask({ query: 'query A { product(id: "p1") { id } } mutation B { refundOrder(id: "o1") { id } }', operationName: 'B' }));
  },
};

await clients[process.argv[2]]();
process.stdout.write(JSON.stringify(out) + '\n');
