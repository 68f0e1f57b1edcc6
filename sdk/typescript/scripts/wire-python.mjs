// The wire types as Python has them: TypedDicts that Python 3.9 reads.
const literal = (v) => JSON.stringify(v)

/** The text of wire.py with the schemas of these names and what their properties need. */
export function python(schemas, names) {
  const out = new Map()
  const called = (name) => (name === 'Error' ? 'ErrorBody' : name)
  const type = (s, inner) => {
    if (s.$ref) return `"${called(s.$ref.split('/').at(-1))}"`
    if ('const' in s) return `Literal[${literal(s.const)}]`
    if (s.enum) return `Literal[${s.enum.map(literal).join(', ')}]`
    if (s.oneOf) return `Union[${s.oneOf.map((o) => type(o, inner)).join(', ')}]`
    if (Array.isArray(s.type)) return `Union[${s.type.map((t) => type({ ...s, type: t }, inner)).join(', ')}]`
    switch (s.type) {
      case 'string': return 'str'
      case 'boolean': return 'bool'
      case 'null': return 'None'
      case 'integer': return 'int'
      case 'number': return 'float'
      case 'array': return s.items ? `List[${type(s.items, inner)}]` : 'List[Any]'
      case 'object':
        if (s.additionalProperties) return `Dict[str, ${type(s.additionalProperties, inner)}]`
        if (!s.properties) return 'Dict[str, Any]'
        define(inner, s)
        return `"${inner}"`
    }
    throw new Error('a schema of a kind that is not known here: ' + JSON.stringify(s))
  }
  const members = (list, of) => list.flatMap(([k, v]) => {
    const said = v.description ? v.description.trim().split('\n').map((l) => '    #: ' + l.trim()) : []
    return [...said, `    ${k}: ${type(v, of + k[0].toUpperCase() + k.slice(1))}`]
  }).join('\n')
  const define = (name, s) => {
    if (s.type !== 'object' || !s.properties) return out.set(name, `${name} = ${type(s, name + 'Item')}\n`)
    const all = Object.entries(s.properties)
    const must = all.filter(([k]) => s.required?.includes(k)), may = all.filter(([k]) => !s.required?.includes(k))
    // NotRequired is newer than Python 3.9: what may be absent is a class of its own.
    let text = ''
    if (must.length && may.length) text = `class _${name}(TypedDict):\n${members(must, name)}\n\n\nclass ${name}(_${name}, total=False):\n${members(may, name)}\n`
    else text = `class ${name}(TypedDict${may.length ? ', total=False' : ''}):\n${members(all, name)}\n`
    out.set(name, text)
  }
  names.forEach((n) => define(called(n), schemas[n]))
  const isClass = (n) => /^class /.test(out.get(n))
  const sorted = [...out.keys()].sort()
  const aliases = sorted.filter((n) => !isClass(n))
  const head = '# Made from api/openapi.yaml by `npm run wire` in sdk/typescript. Do not edit.\n"""What the API takes and gives."""\n\nfrom typing import Any, Dict, List, Literal, TypedDict, Union\n\n'
  return head + aliases.map((n) => out.get(n)).join('') + '\n\n' + sorted.filter(isClass).map((n) => out.get(n)).join('\n\n')
}
