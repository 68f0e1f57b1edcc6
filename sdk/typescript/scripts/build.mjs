// Builds dist/cjs with its types, and dist/esm, which hands on the same: one
// implementation, so that an error made in one is an instance of the class in the
// other, and half of the bytes. A package.json inside dist/cjs tells Node and
// TypeScript that the files there are CommonJS.
import { execFileSync } from 'node:child_process'
import { cpSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { transformSync } from 'esbuild'
process.chdir(fileURLToPath(new URL('..', import.meta.url)))
rmSync('dist', { recursive: true, force: true })
// Comments are for readers of the types.
const tsc = (...args) => [['--declaration', 'false', '--removeComments'], ['--emitDeclarationOnly']].forEach((kind) =>
  execFileSync(process.execPath, ['node_modules/typescript/bin/tsc', ...args, ...kind], { stdio: 'inherit' }))
// Whether a file is CommonJS follows from the package.json nearest to its source.
rmSync('.cjs', { recursive: true, force: true })
try {
  mkdirSync('.cjs')
  cpSync('src', '.cjs/src', { recursive: true })
  writeFileSync('.cjs/package.json', '{"type":"commonjs"}\n')
  cpSync('tsconfig.json', '.cjs/tsconfig.json')
  tsc('-p', '.cjs', '--outDir', 'dist/cjs', '--typeRoots', 'node_modules/@types')
} finally {
  rmSync('.cjs', { recursive: true, force: true })
}
writeFileSync('dist/cjs/package.json', '{"type":"commonjs"}\n')
// Nobody can import these: what has types alone, and types of what is not exported.
for (const name of ['wire.js', 'http.d.ts', 'decision.d.ts', 'object.d.ts']) rmSync('dist/cjs/' + name)
// Nor do they read what is run: it is made small. Names at the top of a file stay, and with them those of errors.
for (const name of readdirSync('dist/cjs').filter((n) => n.endsWith('.js'))) {
  writeFileSync('dist/cjs/' + name, transformSync(readFileSync('dist/cjs/' + name, 'utf8'), { minify: true, platform: 'node' }).code)
}
const require = createRequire(import.meta.url)
mkdirSync('dist/esm')
for (const entry of ['index', 'openai', 'ai', 'mcp', 'langchain']) {
  const names = Object.keys(require(`../dist/cjs/${entry}.js`))
  writeFileSync(`dist/esm/${entry}.js`, `import all from '../cjs/${entry}.js'\nexport const { ${names.join(', ')} } = all\n`)
  writeFileSync(`dist/esm/${entry}.d.ts`, `export * from '../cjs/${entry}.js'\n`)
}
