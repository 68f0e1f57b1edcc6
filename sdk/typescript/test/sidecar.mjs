// The real binary, built or as ACTPASS_BIN, on ports of its own.
import { execFileSync, spawn } from 'node:child_process'
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../../..', import.meta.url))

/** Starts a sidecar; `more` is added to its configuration, `files` to its directory. stop() ends it and removes what it left. */
export async function start(more = '', files = {}) {
  const dir = mkdtempSync(join(tmpdir(), 'actpass-sdk-'))
  let bin = process.env.ACTPASS_BIN
  if (!bin) execFileSync('go', ['build', '-o', bin = join(dir, 'actpass'), './cmd/actpass'], { cwd: root, stdio: 'inherit' })
  mkdirSync(join(dir, 'policies'))
  copyFileSync(join(root, 'policies/refund_policy.yaml'), join(dir, 'policies/refund_policy.yaml'))
  const config = join(dir, 'config.yaml')
  writeFileSync(config, 'mode: monitor\nidentity: { tenant_id: acme, agent_id: support_agent }\nlisten: { proxy: "127.0.0.1:0", reverse: "127.0.0.1:0", api: "127.0.0.1:0" }\npolicy: { files: [./policies/*.yaml] }\n' + more)
  for (const [name, text] of Object.entries(files)) writeFileSync(join(dir, name), text)
  const sidecar = spawn(bin, ['serve', '--config', config], { stdio: ['ignore', 'ignore', 'pipe'] })
  const addresses = await new Promise((done, fail) => {
    sidecar.once('exit', () => fail(new Error('the sidecar ended')))
    const lines = createInterface({ input: sidecar.stderr }).on('line', (l) => { if (l.includes('"msg":"ready"')) { lines.close(); done(JSON.parse(l)) } })
  })
  const log = []
  sidecar.stderr.on('data', (b) => log.push(b)).resume() // closing lines paused it, and a pipe that nobody reads fills
  return {
    log: () => Buffer.concat(log).toString(),
    dir, bin, config, addresses, baseUrl: 'http://' + addresses.api,
    key: (...args) => execFileSync(bin, ['keys', 'create', '--config', config, ...args], { encoding: 'utf8' }).trim(),
    async stop() {
      const gone = new Promise((done) => sidecar.once('exit', done))
      sidecar.kill()
      await gone
      rmSync(dir, { recursive: true, force: true })
    },
  }
}
