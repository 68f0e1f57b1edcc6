import { createHash, createPublicKey, verify } from 'node:crypto'
import { object } from './object.js'

export interface VerifiedBundle {
  /** Verifier key that vouches for it. */
  publicKey: string
  /** Records in the log at the bundle's checkpoint. */
  treeSize: number
  records: Array<{ index: number; record: Record<string, unknown> }>
}

const sha256 = (...parts: Uint8Array[]) => parts.reduce((h, p) => h.update(p), createHash('sha256')).digest()
const HASH = '[A-Za-z0-9+/]{43}='
const LINE = new RegExp(`^\\{"i":(0|[1-9]\\d{0,14}),"h":"(${HASH})","p":\\[((?:"${HASH}"(?:,"${HASH}")*)?)$`)

function fail(why: string): never { throw new Error('the evidence bundle does not verify: ' + why) }

function bytes(text: string): Buffer {
  const b = Buffer.from(text, 'base64')
  return b.toString('base64') === text ? b : fail('base64 that is not canonical')
}

/**
 * Checks an exported bundle (`actpass evidence export`) without asking anybody,
 * after the format in the package comment of evidence/. Throws at the first
 * fault. `publicKey` is the verifier key known from elsewhere; without one the
 * bundle's own is used, which shows damage, not forgery.
 */
export function verifyEvidence(bundle: string | Uint8Array, publicKey?: string): VerifiedBundle {
  let rest = Buffer.from(bundle as Uint8Array)
  const next = () => {
    const end = rest.indexOf(10)
    if (end < 0) fail('a line is cut off')
    const line = rest.subarray(0, end)
    rest = rest.subarray(end + 1)
    return line
  }
  const head = next().toString('utf8')
  let h: any
  try { h = JSON.parse(head) } catch { fail('its header is no JSON') }
  const { bundle: version, origin, key, checkpoint } = h ?? {}
  if (version !== 1 || typeof key !== 'string' || typeof checkpoint !== 'string') fail('its header is not of format 1')
  const canonical = JSON.stringify({ bundle: version, origin, key, checkpoint }).replace(/[<>&\u2028\u2029]/g, (c) => '\\u' + c.charCodeAt(0).toString(16).padStart(4, '0'))
  if (canonical !== head) fail('its header is not in its canonical form')
  if (publicKey !== undefined && publicKey !== key) fail('it is of another key')
  const k = /^([^\s+]+)\+([0-9a-f]{8})\+(\S+)$/.exec(key)
  if (!k || k[1] !== origin) fail('its key is not that of its origin')
  const id = Buffer.from(k[2]!, 'hex'), raw = bytes(k[3]!)
  if (raw.length !== 33 || raw[0] !== 1 || !sha256(Buffer.from(origin + '\n'), raw).subarray(0, 4).equals(id)) fail('its key is malformed')

  if (/[\x00-\x09\x0b-\x1f]/.test(checkpoint)) fail('its checkpoint has control characters')
  const end = checkpoint.lastIndexOf('\n\n')
  const note = /^([^\n]+)\n(0|[1-9]\d{0,14})\n([^\n]+)\n((?:[^\n]*\n)*)$/.exec(checkpoint.slice(0, end + 1))
  if (end < 0 || !checkpoint.endsWith('\n') || !note || note[1] !== origin) fail('its checkpoint is malformed')
  for (const l of note[4]!.split('\n')) if (l.startsWith('time ') && !/^time \d{4}(-\d\d){2}T\d\d(:\d\d){2}\.\d{6}Z$/.test(l)) fail('the time of its checkpoint is none')
  const pub = createPublicKey({ format: 'jwk', key: { kty: 'OKP', crv: 'Ed25519', x: raw.subarray(1).toString('base64url') } })
  let signed = false
  for (const l of checkpoint.slice(end + 2, -1).split('\n')) {
    const s = /^\u2014 ([^\s+]+) (\S+)$/.exec(l)
    const signature = s ? bytes(s[2]!) : undefined
    if (!s || !signature || signature.length < 5) fail('a signature of its checkpoint is malformed')
    // Those of others, as of witnesses, are theirs to check.
    if (s[1] !== origin || !signature.subarray(0, 4).equals(id)) continue
    if (signature.length !== 68 || !verify(null, Buffer.from(note[0]), pub, signature.subarray(4))) fail('its checkpoint is not signed by its key')
    signed = true
  }
  if (!signed) fail('its checkpoint is not signed by its key')
  const treeSize = Number(note[2]), root = bytes(note[3]!)

  const out: VerifiedBundle = { publicKey: key, treeSize, records: [] }
  let last = -1
  while (rest.length > 0) {
    const line = next()
    const cut = line.indexOf('],"r":')
    const m = cut < 0 ? null : LINE.exec(line.subarray(0, cut).toString('latin1'))
    if (!m || line[line.length - 1] !== 0x7d) fail(`the line behind record ${last} is malformed`)
    const index = Number(m[1]), record = line.subarray(cut + 6, line.length - 1)
    if (index <= last) fail(`record ${index} is out of order`)
    if (index >= treeSize) fail(`record ${index} is not in the checkpoint`)
    const leaf = sha256(Buffer.of(0), record)
    if (leaf.toString('base64') !== m[2]) fail(`record ${index} was altered`)
    if (!included(index, treeSize, leaf, m[3] ? m[3].slice(1, -1).split('","').map(bytes) : [], root)) fail(`record ${index} is not in the tree of the checkpoint`)
    out.records.push({ index, record: object(record) ?? fail(`record ${index} is not one JSON object, or has a name twice`) })
    last = index
  }
  return out
}

/** RFC 9162 section 2.1.3.2. */
function included(index: number, size: number, leaf: Buffer, proof: Buffer[], root: Buffer): boolean {
  let fn = index, sn = size - 1, r = leaf
  for (const p of proof) {
    if (sn === 0) return false
    if (fn % 2 === 1 || fn === sn) {
      r = sha256(Buffer.of(1), p, r)
      while (fn % 2 === 0 && fn !== 0) { fn /= 2; sn = Math.floor(sn / 2) }
    } else r = sha256(Buffer.of(1), r, p)
    fn = Math.floor(fn / 2)
    sn = Math.floor(sn / 2)
  }
  return sn === 0 && r.equals(root)
}
