// What npm would publish, installed into an empty ESM and an empty CJS project,
// and its size; wrong uses must not compile.
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const dir = mkdtempSync(join(tmpdir(), 'actpass-pack-'))
let tarball, whole
before(() => {
  const name = execFileSync('npm', ['pack', '--silent', '--ignore-scripts', '--pack-destination', dir], { cwd: root, encoding: 'utf8' }).trim()
  tarball = join(dir, name)
  whole = statSync(tarball).size
})
after(() => rmSync(dir, { recursive: true, force: true }))

const use = `const a = new ActPass({ apiKey: 'sk_live_x', agentId: 'a', baseUrl: 'http://127.0.0.1:9', retries: 0 })
a.guard({ tool: 't', execute: () => 1 }).then((r) => console.log(r.error.kind))\n`
for (const [kind, type, head] of [['esm', 'module', "import { ActPass } from '@actpass/sdk'\n"], ['cjs', 'commonjs', "const { ActPass } = require('@actpass/sdk')\n"]]) {
  test('installed into an empty project: ' + kind, () => {
    const at = join(dir, kind)
    mkdirSync(at)
    writeFileSync(join(at, 'package.json'), JSON.stringify({ name: 'x', private: true, type }))
    writeFileSync(join(at, 'use.js'), head + use)
    execFileSync('npm', ['install', '--silent', '--offline', '--no-audit', '--no-fund', tarball], { cwd: at })
    assert.equal(execFileSync(process.execPath, ['use.js'], { cwd: at, encoding: 'utf8' }), 'unreachable\n')
    const tsc = (file, text) => {
      writeFileSync(join(at, file), text)
      return spawnSync(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '--noEmit', '--strict', '--module', 'node16', '--target', 'es2022', '--types', 'node', '--typeRoots', join(root, 'node_modules/@types'), file], { cwd: at, encoding: 'utf8' })
    }
    const start = "import { ActPass } from '@actpass/sdk'\nconst a = new ActPass({ apiKey: 'k', agentId: 'a' })\n"
    const right = tsc('right.ts', start + "async function f() { const r = await a.guard({ tool: 't', mode: 'enforce', execute: () => 1 }); const n: number | undefined = r.result; const w: string | undefined = r.decision?.reason_code; return [n, w] }\nvoid f")
    assert.equal(right.status, 0, right.stdout)
    for (const [what, line] of Object.entries({
      'no execute': "a.guard({ tool: 't' })", 'no tool': 'a.guard({ execute: () => 1 })', 'a mode that is none': "a.guard({ tool: 't', mode: 'loose', execute: () => 1 })",
      'a wrong onApproval': "a.guard({ tool: 't', onApproval: 'ask', execute: () => 1 })", 'no agent': "new ActPass({ apiKey: 'k' })",
      'the result of another type': "a.guard({ tool: 't', execute: () => 1 }).then((r) => { const s: string = r.result!; return s })",
    })) {
      const wrong = tsc('wrong.ts', start + line)
      assert.equal(wrong.status, 2, what + ' compiled')
      assert.match(wrong.stdout, /^wrong\.ts\(3,/m)
    }
  })
}

test('packed without the adapters, it is under 15 kB', () => {
  // The frameworks' adapters are entry points of their own, and counted apart.
  const at = join(dir, 'core')
  execFileSync('tar', ['-xzf', tarball, '-C', mkdirSync(at, { recursive: true }) ?? at])
  for (const kind of ['esm', 'cjs']) {
    for (const name of ['ai', 'langchain', 'mcp', 'openai', 'tools']) for (const ext of ['js', 'd.ts']) rmSync(join(at, 'package/dist', kind, `${name}.${ext}`))
  }
  rmSync(join(at, 'package/ADAPTERS.md'))
  const name = execFileSync('npm', ['pack', '--silent', '--ignore-scripts', '--pack-destination', at], { cwd: join(at, 'package'), encoding: 'utf8' }).trim()
  const core = statSync(join(at, name)).size, all = whole
  console.log('packed bytes', core, 'with adapters', all)
  assert.ok(core < 15_000, String(core))
  assert.ok(all < 22_000, String(all))
})
