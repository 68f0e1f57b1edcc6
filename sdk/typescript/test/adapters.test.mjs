// The snippets of ADAPTERS.md, word for word, with the frameworks' own packages, a
// stand-in model and the real binary; and what the snippets do not show.
import assert from 'node:assert/strict'
import { execFile, spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { tool as langchainTool } from '@langchain/core/tools'
import { Client } from '@modelcontextprotocol/sdk/client/index.js'
import { InMemoryTransport } from '@modelcontextprotocol/sdk/inMemory.js'
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js'
import { tool as aiTool } from 'ai'
import { z } from 'zod'
import { guardTools } from '../dist/esm/ai.js'
import { ActPass, HeldError, MisusedError, RefusedError } from '../dist/esm/index.js'
import { guardTool } from '../dist/esm/langchain.js'
import { guardClient, guardServer } from '../dist/esm/mcp.js'
import { runToolCalls } from '../dist/esm/openai.js'
import { start } from './sidecar.mjs'

let sidecar, model, env, actpass, human
before(async () => {
  sidecar = await start()
  const apiKey = sidecar.key('--name', 'a', '--role', 'gateway', '--agent', 'support_agent')
  human = sidecar.key('--name', 'lead', '--role', 'approver', '--group', 'support-leads')
  actpass = new ActPass({ apiKey, agentId: 'support_agent', baseUrl: sidecar.baseUrl })
  // A model that refunds the number in the question, and then repeats what it was told.
  model = createServer(async (req, res) => {
    let text = ''
    for await (const b of req) text += b
    const messages = JSON.parse(text).messages, told = messages.findLast((m) => m.role === 'tool')
    const amount = Number(JSON.stringify(messages).match(/refund (\d+)/)[1])
    const call = { id: 'call_1', type: 'function', function: { name: 'refund', arguments: JSON.stringify({ charge: 'ch_123', amount, currency: 'usd' }) } }
    const message = told ? { role: 'assistant', content: 'I was told: ' + told.content } : { role: 'assistant', content: null, tool_calls: [call] }
    res.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({ id: 'c', object: 'chat.completion', created: 1, model: 'gpt-5', choices: [{ index: 0, message, finish_reason: told ? 'stop' : 'tool_calls' }], usage: { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 } }))
  })
  await new Promise((done) => model.listen(0, '127.0.0.1', done))
  env = { PATH: process.env.PATH, ACTPASS_API_KEY: apiKey, ACTPASS_API_URL: sidecar.baseUrl, OPENAI_API_KEY: 'none', OPENAI_BASE_URL: `http://127.0.0.1:${model.address().port}/v1` }
})
after(async () => { model?.closeAllConnections(); model?.close(); await sidecar?.stop() })

const snippets = [...readFileSync(new URL('../ADAPTERS.md', import.meta.url), 'utf8').matchAll(/```js\n([^]*?)```/g)].map((m) => m[1])
const cwd = fileURLToPath(new URL('..', import.meta.url))
const run = async (snippet, amount) => (await promisify(execFile)(process.execPath, ['--input-type=module', '-e', snippet], { cwd, env: { ...env, AMOUNT: amount, QUESTION: `Please refund ${amount} of ch_123.` } })).stdout

test('ADAPTERS.md has four', () => assert.equal(snippets.length, 4))
test('ADAPTERS.md names the versions that are tested, and these run on Node 20', () => {
  const said = readFileSync(new URL('../ADAPTERS.md', import.meta.url), 'utf8').replace(/\s+/g, ' ')
  for (const name of ['openai', 'ai', '@modelcontextprotocol/sdk', '@langchain/core']) {
    const { version, engines } = JSON.parse(readFileSync(new URL(`../node_modules/${name}/package.json`, import.meta.url), 'utf8'))
    assert.ok(said.includes(` ${name} ${version.split('.').slice(0, 2).join('.')}`), name + ' ' + version)
    assert.ok(Number(/^>=\s*(\d+)/.exec(engines?.node ?? '>=0')?.[1]) <= 20, `${name} ${version} wants Node ${engines?.node}`)
  }
})
for (const [i, name, ok, error] of [[0, 'openai', /^I was told: \{"id":"re_123"/, /^I was told: Error: ActPass refused/], [1, 'ai', /^I was told: \{"id":"re_123"/, /^I was told: (\{"error":"RefusedError: )?ActPass refused/], [2, 'mcp', /^ok: refunded ch_123\n/, /^error: ActPass refused/], [3, 'langchain', /^success refunded ch_123\n/, /^error ActPass refused/]]) {
  test(`ADAPTERS.md's ${name}: the model is told the result, and the rule of a refusal`, async () => {
    assert.match(await run(snippets[i], '4900'), ok)
    const refused = await run(snippets[i], '75000')
    assert.match(refused, error)
    assert.match(refused, /stripe\.refund\.create.*Rule: large_refund\. Reason: refund\.over_limit/)
  })
}

const rules = (more) => (name, a) => ({ tool: 'stripe.refund.create', resource: 'stripe:charge:ch_1', mode: 'enforce', ...more })
const args = (amount) => ({ amount, currency: 'usd' })
const schema = { amount: z.number().int(), currency: z.string().default('usd') }
const never = () => assert.fail('run')
const outcome = async (id) => (await (await fetch(`${sidecar.baseUrl}/api/v1/evidence/events/${id}`, { headers: { authorization: 'Bearer ' + human } })).json()).outcome
const api = async (path, body) => (await fetch(sidecar.baseUrl + '/api/v1' + path, { method: body ? 'POST' : 'GET', headers: { authorization: 'Bearer ' + human, 'content-type': 'application/json' }, body: body && JSON.stringify(body) })).json()
async function approve(amount) {
  for (;;) {
    const { data } = await api('/approvals?state=pending')
    const a = data.find((a) => a.args.amount === amount)
    if (a) return api(`/approvals/${a.id}/decide`, { decision: 'approve', reason: 'ok' })
    await new Promise((done) => setTimeout(done, 20))
  }
}

test('openai: what is no call of a tool is answered, not run', async () => {
  const call = (name, text) => ({ type: 'function_call', call_id: 'c1', name, arguments: text })
  const f = { refund: never, echo: ({ amount }) => amount, breaks: () => { throw new Error('out of stock') } }
  const out = await runToolCalls(actpass, [call('__proto__', '{}'), call('refund', '{'), call('refund', JSON.stringify(args(75000))), call('echo', JSON.stringify(args(5))), call('breaks', JSON.stringify(args(5)))], f, rules())
  assert.deepEqual(out.map((o) => [o.type, o.call_id]), Array(5).fill(['function_call_output', 'c1']))
  for (const [i, said] of [/no tool "__proto__"/, /not JSON/, /large_refund/, /^5$/, /^Error: out of stock$/].entries()) assert.match(out[i].output, said)
  await assert.rejects(runToolCalls(actpass, [call('refund', '{}')], f, { mode: 'loose' }), MisusedError)
  await assert.rejects(runToolCalls(actpass, [call('refund', '{}')], f, rules(), AbortSignal.abort(new Error('enough'))), /enough/)
})

test('a held call is answered at once, or waits, as asked, and runs once', async () => {
  const call = (amount) => [{ id: 'c1', type: 'function', function: { name: 'refund', arguments: JSON.stringify(args(amount)) } }]
  const [held] = await runToolCalls(actpass, call(20000), { refund: never }, rules())
  assert.match(held.content, /holds stripe\.refund\.create for a human.*apr_/)
  let ran = 0
  const waits = runToolCalls(actpass, call(20001), { refund: () => ++ran }, rules({ onApproval: 'wait', approvalTimeoutMs: 20_000 }))
  await approve(20001)
  assert.deepEqual([await waits, ran], [[{ role: 'tool', tool_call_id: 'c1', content: '1' }], 1])
})

test('ai: a stream ends before its outcome is reported, and what cannot be guarded is misuse', async () => {
  const seen = []
  const { t } = guardTools(actpass, { t: aiTool({ inputSchema: z.object(schema), execute: async function* () { seen.push(1); yield 'half'; seen.push(2); yield 'whole' } }) }, rules())
  assert.equal(await t.execute(args(10), { toolCallId: 'c', messages: [] }), 'whole')
  assert.deepEqual(seen, [1, 2])
  await assert.rejects(t.execute(args(75000), { toolCallId: 'c', messages: [] }), RefusedError)
  assert.deepEqual(seen, [1, 2])
  assert.throws(() => guardTools(actpass, { t: { inputSchema: {} } }), MisusedError)
})

async function connected(guardedServer, guardedClient) {
  const server = new McpServer({ name: 's', version: '1' }), client = new Client({ name: 'c', version: '1' })
  if (guardedServer) guardServer(actpass, server, guardedServer)
  if (guardedClient) guardClient(actpass, client, guardedClient)
  return { server, client, open: () => { const [a, b] = InMemoryTransport.createLinkedPair(); return Promise.all([server.connect(b), client.connect(a)]) } }
}

test('mcp: the server judges what its schema made of the arguments, in every handler', async () => {
  const { server, client, open } = await connected({ server: 'shop', rules: rules() })
  const ok = { content: [{ type: 'text', text: 'ran' }] }
  const one = server.registerTool('one', { inputSchema: schema }, () => ok)
  server.tool('two', schema, () => ok)
  server.registerTool('bare', {}, () => ok)
  await open()
  const call = async (name, a) => (({ isError, content }) => [isError ?? false, content[0].text])(await client.callTool({ name, arguments: a }))
  assert.deepEqual(await call('one', { amount: 5 }), [false, 'ran'])   // the currency is the schema's default
  for (const name of ['one', 'two']) assert.match((await call(name, args(75000))).join(), /^true,ActPass refused.*large_refund/)
  one.update({ callback: never })
  assert.match((await call('one', args(75000))).join(), /^true,ActPass refused/)
  assert.match((await call('bare', undefined)).join(), /^true,ActPass refused/)   // no amount: policy cannot be evaluated
  await client.close()
})

test('mcp: the client asks before anything is sent, as mcp.SERVER.TOOL, and reports a tool\'s own error as unknown', async () => {
  const { server, client, open } = await connected(undefined, { server: 'shop', rules: (name, a) => (name === 'refund' ? rules()() : { mode: 'monitor' }) })
  server.registerTool('refund', { inputSchema: schema }, never)
  server.registerTool('other', { inputSchema: schema }, () => ({ isError: true, content: [{ type: 'text', text: 'no stock' }] }))
  await open()
  for (const go of [() => client.callTool({ name: 'refund', arguments: args(75000) }), () => client.request({ method: 'tools/call', params: { name: 'refund', arguments: args(75000) } }, z.any())]) {
    const r = await go()
    assert.match(`${r.isError} ${r.content[0].text}`, /^true ActPass refused/)
  }
  assert.equal((await client.listTools()).tools.length, 2)
  assert.deepEqual((await client.callTool({ name: 'other', arguments: args(1) })).content, [{ type: 'text', text: 'no stock' }])
  const { data: [e] } = await api('/evidence/events?tool=mcp.shop.other&limit=1')
  assert.equal((await outcome(e.id)).state, 'ambiguous')
  await client.close()
})

test('langchain: every way to call the tool is judged', async () => {
  const make = (more, f = never) => guardTool(actpass, langchainTool(f, { name: 'refund', description: 'd', schema: z.object(schema), ...more }), rules())
  await assert.rejects(make().invoke(args(75000)), RefusedError)
  await assert.rejects(make()._call(args(75000)), RefusedError)
  await assert.rejects(make().invoke(args(20005)), HeldError)
  const m = await make({ responseFormat: 'content_and_artifact' }).invoke({ type: 'tool_call', id: 'c1', name: 'refund', args: args(75000) })
  assert.deepEqual([m.status, m.tool_call_id, /large_refund/.test(m.content)], ['error', 'c1', true])
  assert.equal(await make({}, ({ currency }) => currency).invoke({ amount: 5 }), 'usd')
  // A refusal inside of an allowed tool reaches the model, too.
  const inner = make()
  const outer = await make({}, () => inner.invoke(args(75000))).invoke({ type: 'tool_call', id: 'c1', name: 'refund', args: args(5) })
  assert.deepEqual([outer.status, /large_refund/.test(outer.content)], ['error', true])
})

test('ai, mcp and langchain: a held call is answered at once, or waits, as asked, and runs once', async () => {
  // The last of the file: what is approved counts towards the day's limit.
  const waiting = { onApproval: 'wait', approvalTimeoutMs: 20_000 }
  const options = { toolCallId: 'c', messages: [] }, toolCall = (amount) => ({ type: 'tool_call', id: 'c1', name: 'refund', args: args(amount) })
  const ai = (more, execute) => guardTools(actpass, { t: aiTool({ inputSchema: z.object(schema), execute }) }, rules(more)).t
  const lang = (more, f) => guardTool(actpass, langchainTool(f, { name: 'refund', description: 'd', schema: z.object(schema) }), rules(more))
  const mcp = async (more, f, side, amount) => {
    const guarded = { server: 'shop', rules: rules(more) }
    const { server, client, open } = await connected(side === 'server' && guarded, side === 'client' && guarded)
    server.registerTool('refund', { inputSchema: schema }, () => ({ content: [{ type: 'text', text: String(f()) }] }))
    await open()
    const { isError, content } = await client.callTool({ name: 'refund', arguments: args(amount) })
    await client.close()
    return `${isError ?? false} ${content[0].text}`
  }
  const ways = {
    ai: (more, f, amount) => ai(more, f).execute(args(amount), options).catch((e) => 'true ' + e.message).then((r) => (typeof r === 'string' ? r : 'false ' + r)),
    langchain: async (more, f, amount) => (({ status, content }) => `${status === 'error'} ${content}`)(await lang(more, f).invoke(toolCall(amount))),
    server: (more, f, amount) => mcp(more, f, 'server', amount),
    client: (more, f, amount) => mcp(more, f, 'client', amount),
  }
  let amount = 20_100
  for (const [name, go] of Object.entries(ways)) {
    assert.match(await go({}, never, ++amount), /^true ActPass holds stripe\.refund\.create for a human.*apr_/, name)
    let ran = 0
    const waits = go(waiting, () => ++ran, ++amount)
    await approve(amount)
    assert.deepEqual([name, await waits, ran], [name, 'false 1', 1])
  }
})

test('types: the frameworks\' own fit, and wrong uses do not compile', () => {
  const at = new URL('types.check.ts', import.meta.url)
  const tsc = spawnSync(process.execPath, ['node_modules/typescript/bin/tsc', '--noEmit', '--ignoreConfig', '--strict', '--skipLibCheck', '--module', 'node16', '--target', 'es2022', '--lib', 'es2023,dom', '--types', 'node', fileURLToPath(at)], { cwd, encoding: 'utf8' })
  assert.equal(tsc.stdout, '')
})

test('types: the snippet of README.md compiles as TypeScript, strictly', () => {
  const found = [...readFileSync(new URL('../README.md', import.meta.url), 'utf8').matchAll(/```js\n([^]*?)```/g)].map((m) => m[1])
  assert.equal(found.length, 1)
  // Beside the package's own files, so that it is found by its name.
  const at = new URL('../.check/', import.meta.url)
  mkdirSync(at, { recursive: true })
  try {
    writeFileSync(new URL('readme.mts', at), found[0])
    const tsc = spawnSync(process.execPath, ['node_modules/typescript/bin/tsc', '--noEmit', '--ignoreConfig', '--strict', '--skipLibCheck', '--module', 'node16', '--target', 'es2022', '--types', 'node', '.check/readme.mts'], { cwd, encoding: 'utf8' })
    assert.equal(tsc.stdout, '')
  } finally { rmSync(at, { recursive: true, force: true }) }
})
