// Builds dist/esm and dist/cjs, each with its types. A package.json inside
// dist/cjs tells Node and TypeScript that the files there are CommonJS.
import { execFileSync } from 'node:child_process'
import { cpSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
process.chdir(fileURLToPath(new URL('..', import.meta.url)))
rmSync('dist', { recursive: true, force: true })
// Comments are for readers of the types.
const tsc = (...args) => [['--declaration', 'false', '--removeComments'], ['--emitDeclarationOnly']].forEach((kind) =>
  execFileSync(process.execPath, ['node_modules/typescript/bin/tsc', ...args, ...kind], { stdio: 'inherit' }))
tsc('-p', '.')
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
