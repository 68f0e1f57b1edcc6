import type { ActPass } from './client.js'
import { MisusedError } from './errors.js'
import { guarded, refusal, type Rules } from './tools.js'

/** A tool call of Chat Completions. */
export interface ChatToolCall { id: string; type: 'function'; function: { name: string; arguments: string } }
/** A tool call of the Responses API. */
export interface ResponsesToolCall { type: 'function_call'; call_id: string; name: string; arguments: string }

/** Functions by the names that the model knows. They get the arguments as the model gave them. */
export type Functions = Record<string, (args: any) => unknown>

export interface ToolMessage { role: 'tool'; tool_call_id: string; content: string }
export interface ToolOutput { type: 'function_call_output'; call_id: string; output: string }

/**
 * Runs a model's tool calls, each under guard, one after the other, and gives
 * what goes back to the model. A call that is refused, held, unknown or not JSON,
 * or whose function throws, is answered with a sentence that says so; misuse of
 * ActPass and an abort are thrown.
 */
export async function runToolCalls(actpass: ActPass, calls: readonly ChatToolCall[], functions: Functions, rules?: Rules, signal?: AbortSignal): Promise<ToolMessage[]>
export async function runToolCalls(actpass: ActPass, calls: readonly ResponsesToolCall[], functions: Functions, rules?: Rules, signal?: AbortSignal): Promise<ToolOutput[]>
export async function runToolCalls(actpass: ActPass, calls: readonly (ChatToolCall | ResponsesToolCall)[], functions: Functions, rules: Rules = {}, signal?: AbortSignal): Promise<(ToolMessage | ToolOutput)[]> {
  const out: (ToolMessage | ToolOutput)[] = []
  for (const c of calls) {
    const f = c.type === 'function' ? c.function : c
    const said = await run(actpass, f.name, f.arguments, functions, rules, signal)
    out.push(c.type === 'function' ? { role: 'tool', tool_call_id: c.id, content: said } : { type: 'function_call_output', call_id: c.call_id, output: said })
  }
  return out
}

async function run(actpass: ActPass, name: string, text: string, functions: Functions, rules: Rules, signal?: AbortSignal): Promise<string> {
  // A model can name __proto__, too.
  const f = Object.hasOwn(functions, name) ? functions[name] : undefined
  if (!f) return `Error: there is no tool ${JSON.stringify(name)}.`
  let args: unknown
  try { args = text ? JSON.parse(text) : {} } catch { return 'Error: the arguments are not JSON.' }
  try {
    const result = await guarded(actpass, name, args, rules, signal, () => f(args))
    return typeof result === 'string' ? result : JSON.stringify(result) ?? ''
  } catch (e) {
    if (signal?.aborted || e instanceof MisusedError) throw e
    return 'Error: ' + (refusal(e) ?? (e as Error)?.message ?? String(e))
  }
}
