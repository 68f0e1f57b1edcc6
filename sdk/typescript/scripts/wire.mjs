// Writes the wire types of both SDKs from api/openapi.yaml. With --check it writes
// nothing and fails when a file is not what the document says.
import { readFileSync, writeFileSync } from 'node:fs'
import { parse } from 'yaml'
import { python } from './wire-python.mjs'
const doc = parse(readFileSync(new URL('../../../api/openapi.yaml', import.meta.url), 'utf8'))
const roots = ['Preflight', 'Decision', 'Outcome', 'Reported', 'Approval', 'NewPassport', 'IssuedPassport', 'VerifyPassport', 'PassportVerdict', 'RevokePassport', 'RevokedPassport', 'JWKS', 'Error']
const wanted = new Set()
function type(s, pad = '') {
  if (s.$ref) {
    const name = s.$ref.split('/').at(-1)
    use(name)
    return name === 'Error' ? 'ErrorBody' : name
  }
  if ('const' in s) return JSON.stringify(s.const)
  if (s.enum) return s.enum.map((v) => JSON.stringify(v)).join(' | ')
  if (s.oneOf) return s.oneOf.map((o) => type(o, pad)).join(' | ')
  if (Array.isArray(s.type)) return s.type.map((t) => type({ ...s, type: t }, pad)).join(' | ')
  switch (s.type) {
    case 'string': return 'string'
    case 'boolean': return 'boolean'
    case 'null': return 'null'
    case 'integer': case 'number': return 'number'
    case 'array': return s.items ? `Array<${type(s.items, pad)}>` : 'unknown[]'
    case 'object': {
      if (s.additionalProperties) return `{ [name: string]: ${type(s.additionalProperties, pad)} }`
      if (!s.properties) return '{ [name: string]: unknown }'
      const lines = Object.entries(s.properties).map(([k, v]) => {
        const said = v.description ? `${pad}  /** ${v.description.trim()} */\n` : ''
        return `${said}${pad}  ${k}${(s.required ?? []).includes(k) ? '' : '?'}: ${type(v, pad + '  ')}`
      })
      return `{\n${lines.join('\n')}\n${pad}}`
    }
  }
  throw new Error('a schema of a kind that is not known here: ' + JSON.stringify(s))
}
const text = new Map()
function use(name) {
  if (wanted.has(name)) return
  wanted.add(name)
  const s = doc.components.schemas[name]
  if (!s) throw new Error('api/openapi.yaml has no schema ' + name)
  text.set(name, `export type ${name === 'Error' ? 'ErrorBody' : name} = ${type(s)}\n`)
}
roots.forEach(use)
const ts = '// Made from api/openapi.yaml by `npm run wire`. Do not edit.\n\n' + [...text.keys()].sort().map((n) => text.get(n)).join('\n')
const made = { 'sdk/typescript/src/wire.ts': ts, 'sdk/python/actpass/wire.py': python(doc.components.schemas, [...text.keys()]) }
for (const [path, out] of Object.entries(made)) {
  const at = new URL('../../../' + path, import.meta.url)
  if (!process.argv.includes('--check')) writeFileSync(at, out)
  else if (readFileSync(at, 'utf8') !== out) {
    console.error(path + ' is not what api/openapi.yaml says: run `npm run wire` in sdk/typescript')
    process.exitCode = 1
  }
}
