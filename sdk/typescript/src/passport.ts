import { createPublicKey, verify } from 'node:crypto'
import { object } from './object.js'
import type { JWKS, PassportClaims } from './wire.js'

/** The passport does not hold. */
export class PassportError extends Error {
  /** Stable, as in passport.expired. */
  readonly reasonCode: string
  constructor(reasonCode: string, why: string) {
    super(`${reasonCode}: ${why}`)
    this.name = 'PassportError'
    this.reasonCode = reasonCode
  }
}

export interface PassportTrust {
  /** Default actpass. */
  issuer?: string
  /** Default actpass. */
  audience?: string
  /** Seconds since 1970. Default: now. */
  now?: number
}

const LEEWAY = 5
const malformed = (why: string): never => { throw new PassportError('passport.malformed', why) }
const isText = (v: unknown) => typeof v === 'string'
const isTexts = (v: unknown) => Array.isArray(v) && v.every(isText)
const isObject = (v: unknown): v is Record<string, any> => typeof v === 'object' && v !== null && !Array.isArray(v)

function segment(text: string, what: string): Buffer {
  const b = Buffer.from(text, 'base64url')
  return b.toString('base64url') === text ? b : malformed(what + ' is not base64url')
}

/**
 * The claims of a passport, by the public keys alone (`jwks()`), after
 * docs/passports.md; throws a PassportError otherwise. Only the sidecar knows
 * what was used and revoked: this does not say that it is still unused. Whole
 * numbers beyond 2^53 in a constraint are rounded, as JavaScript has them.
 */
export function verifyPassportOffline(token: string, jwks: JWKS, trust: PassportTrust = {}): PassportClaims {
  const { issuer = 'actpass', audience = 'actpass', now = Date.now() / 1000 } = trust
  const parts = token.split('.')
  if (Buffer.byteLength(token) > 16 << 10 || parts.length !== 3) malformed('it is not a token of this form')
  const header = segment(parts[0]!, 'the header'), payload = segment(parts[1]!, 'the claims'), signature = segment(parts[2]!, 'the signature')
  const h = object(header) ?? malformed('the header is not one JSON object, or has a name twice')
  if (h.alg !== 'EdDSA') throw new PassportError('passport.algorithm', 'only EdDSA is accepted')
  if (h.typ !== 'actpass+jwt' || Object.keys(h).some((k) => !['alg', 'kid', 'typ'].includes(k))) malformed('the header is not that of a passport')
  const k = /^[A-Za-z0-9_-]{1,64}$/.test(h.kid) && isText(h.kid) ? jwks.keys.find((x) => x.kid === h.kid && x.kty === 'OKP' && x.crv === 'Ed25519') : undefined
  if (!k) throw new PassportError('passport.key', 'the key is not known, or no longer used')
  const key = createPublicKey({ format: 'jwk', key: { kty: k.kty, crv: k.crv, x: k.x } })
  if (signature.length !== 64 || !verify(null, Buffer.from(parts[0] + '.' + parts[1]), key, signature)) throw new PassportError('passport.signature', 'the signature does not fit')

  const c = object(payload) ?? malformed('the claims are not one JSON object, or have a name twice')
  form(c, payload.toString('utf8'))
  constraints(c.resource_constraints)
  if (c.iss !== issuer) throw new PassportError('passport.issuer', 'it was issued by another than is trusted here')
  if (c.aud !== audience) throw new PassportError('passport.audience', 'it is for another audience')
  if (now >= c.exp + LEEWAY) throw new PassportError('passport.expired', 'it expired')
  if (now + LEEWAY < c.iat) throw new PassportError('passport.not_yet_valid', 'it is issued in the future')
  return c as PassportClaims
}

function form(c: Record<string, any>, text: string): void {
  const texts = ['iss', 'aud', 'jti', 'tenant_id', 'agent_id', 'user_id', 'goal', 'risk_tier', 'approval_hash'], lists = ['allowed_tools', 'allowed_resources']
  for (const [name, v] of Object.entries(c)) {
    const good = texts.includes(name) ? isText(v) : lists.includes(name) ? isTexts(v) : name === 'iat' || name === 'exp' ? Number.isSafeInteger(v) : name === 'resource_constraints' && isObject(v)
    if (!good) malformed(`the claim ${name.slice(0, 64)} is not known, or of another type`)
  }
  // 5.0 and 5e0 are whole to JSON.parse, and no whole numbers in the format.
  for (const m of text.matchAll(/"(?:iat|exp)"\s*:\s*([^,}\s]+)/g)) if (!/^-?\d+$/.test(m[1]!)) malformed('a time is no whole number')
  if (!c.tenant_id || !c.agent_id || !isText(c.jti) || !c.jti.startsWith('ap_') || Buffer.byteLength(c.jti) > 128) malformed('tenant_id, agent_id or jti is missing, or jti is not of this form')
  if (c.iat === undefined || c.exp === undefined || c.exp <= c.iat || c.exp - c.iat > 3600) malformed('it lives for no time, or for more than an hour')
  c.iss ??= ''
  c.aud ??= ''
  c.allowed_tools ??= []
  c.allowed_resources ??= []
}

function constraints(all: Record<string, any> = {}): void {
  const isNumber = (v: unknown) => typeof v === 'number'
  const each = (good: (v: any) => boolean) => (v: unknown) => isObject(v) && Object.keys(v).length > 0 && Object.values(v).every(good)
  const known = new Map<string, (v: unknown) => boolean>([
    ['max_amount', isNumber], ['min_amount', isNumber], ['currency', isText], ['max', each(isNumber)], ['min', each(isNumber)],
    ['equals', each(() => true)], ['prefix', each(isText)], ['one_of', each((v) => Array.isArray(v) && v.length > 0)],
  ])
  for (const [name, v] of Object.entries(all)) if (!known.get(name)?.(v)) throw new PassportError('passport.constraint', 'a constraint has no meaning here')
}
