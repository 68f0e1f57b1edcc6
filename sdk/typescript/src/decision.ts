import { MisusedError, UnreachableError } from './errors.js'
import { good, type Answer } from './http.js'
import type { Decision, Mode, Preflight } from './wire.js'

const modes = ['monitor', 'warn', 'enforce', 'strict']

/** A question as it is sent. Encoded once: what is asked again after a wait is what was asked first, whatever became of `args`. */
export function encode(p: Preflight): string {
  if (typeof p.tool !== 'string' || !p.tool) throw new MisusedError('tool is required, as in stripe.refund.create.')
  if (p.mode !== undefined && !modes.includes(p.mode)) throw new MisusedError("mode must be monitor, warn, enforce or strict; without it the operator's holds.")
  return json(p)
}

/** JSON, of what JSON has: NaN would become null, and be judged as that. */
export function json(v: unknown): string {
  try {
    return JSON.stringify(v, (_, x) => {
      if (typeof x === 'number' && !Number.isFinite(x)) throw new TypeError(`${x} is no number of JSON`)
      return x
    })
  } catch (e) {
    // The text of an error about a circle names members of args; a toJSON's may say anything.
    const why = e instanceof TypeError && /BigInt|JSON\.$/.test(e.message) ? e.message : 'something in it has no JSON'
    throw new MisusedError(`the call cannot be written as JSON: ${why}. Give args as texts, numbers, lists and objects.`)
  }
}

const id = (v: unknown) => typeof v === 'string' && /^[\w-]+$/.test(v)
const texts = (v: unknown) => Array.isArray(v) && v.every((s) => typeof s === 'string')

/**
 * The decision in an answer to `asked`. What is not wholly one, is about another
 * action, or is of a looser mode than was asked for, is none: nothing runs on it.
 */
export function decided(r: Answer, asked: Preflight): Decision {
  const d = r.body
  if ((r.status !== 200 && r.status !== 403) || typeof d?.decision !== 'string') good(r)
  const whole = (r.status === 200 || r.status === 403) && ['none', 'warn', 'block', 'hold'].includes(d?.enforcement) && modes.includes(d.mode)
    && ['decision', 'reason_code', 'tool', 'resource'].every((k) => typeof d[k] === 'string') && id(d.evidence_event_id)
    && typeof d.explain?.summary === 'string' && texts(d.explain.matched_rules) && texts(d.explain.next_steps)
    && (d.approval_request_id === undefined || id(d.approval_request_id))
  if (!whole) throw new UnreachableError('ActPass could not be asked: its answer is no decision. Check baseUrl.')
  if (d.tool !== asked.tool || d.resource !== (asked.resource ?? '')) throw new UnreachableError('ActPass could not be asked: its answer is about another action. Check baseUrl.')
  if (modes.indexOf(d.mode) < modes.indexOf(asked.mode ?? 'monitor')) throw new UnreachableError(`ActPass could not be asked: its answer is of mode ${d.mode}, and ${asked.mode} was asked for. Check baseUrl.`)
  return runs(d.enforcement) && (r.status === 403 || (blocks(d.mode) && d.decision !== 'allow')) ? { ...d, enforcement: 'block' } : d
}

const runs = (enforcement: string) => enforcement === 'none' || enforcement === 'warn'
const blocks = (mode: Mode) => mode === 'enforce' || mode === 'strict'
