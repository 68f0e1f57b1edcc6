import type { ActPass } from './client.js'
import { MisusedError } from './errors.js'
import { guarded, type Rules } from './tools.js'

/**
 * The same tools of the Vercel AI SDK, each under guard. What is refused is thrown
 * in `execute`, which the SDK hands to the model as the tool's error. A tool without
 * `execute` runs elsewhere, where nothing here can guard it: it is a misuse.
 * Of a tool that streams, the last value is the result.
 */
export function guardTools<T extends Record<string, any>>(actpass: ActPass, tools: T, rules: Rules = {}): T {
  const out: Record<string, unknown> = {}
  for (const [name, tool] of Object.entries(tools)) {
    const execute = tool?.execute
    if (typeof execute !== 'function') throw new MisusedError(`tool ${name} has no execute, and cannot be guarded. Leave it out, and guard it where it runs.`)
    out[name] = {
      ...tool,
      execute: (input: unknown, options: { abortSignal?: AbortSignal } | undefined) =>
        guarded(actpass, name, input, rules, options?.abortSignal, () => execute.call(tool, input, options)),
    }
  }
  return out as T
}
