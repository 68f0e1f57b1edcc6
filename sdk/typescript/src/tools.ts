// What the adapters have in common. Nothing of a framework's is imported: their
// shapes alone are known here.
import type { Action, ActPass, GuardOptions } from './client.js'
import { ActPassError } from './errors.js'

/** How one call of a tool is judged. */
export interface ToolRules extends Pick<Action, 'resource' | 'args' | 'goal' | 'userId' | 'mode' | 'passport' | 'idempotencyKey'>, Pick<GuardOptions<unknown>, 'onApproval' | 'approvalTimeoutMs'> {
  /** The tool's name for policy. Default: the name that the model knows, for MCP `mcp.SERVER.NAME`. */
  tool?: string
}

/** The same for every call, or by the name and the arguments of each. `args` defaults to the call's own. */
export type Rules = ToolRules | ((name: string, args: any) => ToolRules)

/** A result that says itself that the tool failed: it may have happened. */
class ToolError {
  readonly name = 'ToolError'
  constructor(readonly result: unknown) {}
}

/**
 * Runs `execute` under guard, and throws what stopped it. `failed` tells from a
 * result whether the tool itself says that it failed.
 */
export async function guarded<T>(actpass: ActPass, name: string, args: unknown, rules: Rules, signal: AbortSignal | undefined, execute: () => T | Promise<T>, failed?: (result: T) => boolean): Promise<T> {
  const own = args !== null && typeof args === 'object' && !Array.isArray(args) ? args as Record<string, unknown> : args === undefined ? {} : { input: args }
  const r = await actpass.guard<T>({
    tool: name, args: own, ...(typeof rules === 'function' ? rules(name, args) : rules), signal,
    execute: async () => {
      const result = await last(execute())
      if (failed?.(result)) throw new ToolError(result)
      return result
    },
  })
  if (r.error instanceof ToolError) return r.error.result as T
  if (r.error !== undefined) throw r.error
  return r.result as T
}

/** A tool may stream: it has run when its stream has ended, and its last value is the result. */
async function last(v: any): Promise<any> {
  v = await v
  if (typeof v?.[Symbol.asyncIterator] !== 'function' || typeof v?.next !== 'function') return v
  let final
  for (;;) {
    const step = await v.next()
    if (step.done) return step.value ?? final
    final = step.value
  }
}

/** The sentence for the model where the action was refused, held or not judged; undefined for any other error. */
export const refusal = (e: unknown): string | undefined => e instanceof ActPassError && e.kind !== 'misused' ? e.message : undefined
