import { AsyncLocalStorage } from 'node:async_hooks'
import type { ActPass } from './client.js'
import { guarded, refusal, type Rules } from './tools.js'

interface Tool { name: string; invoke: (input: any, config?: any) => Promise<any> }

/** Whether the tool call that runs now was refused. */
const calls = new AsyncLocalStorage<{ refused: boolean }>()

/**
 * Guards a LangChain tool, itself, and gives it back: what calls it by any of its
 * methods is judged, by its arguments as its schema made them. Called with a tool
 * call, a refusal is a ToolMessage of status `error`; called with plain
 * arguments, it is thrown.
 */
export function guardTool<T extends Tool>(actpass: ActPass, tool: T, rules: Rules = {}): T {
  const t = tool as any
  const run = t._call.bind(t), invoke = t.invoke.bind(t)
  t._call = async (args: unknown, manager: unknown, config: { signal?: AbortSignal } | undefined) => {
    try {
      return await guarded(actpass, t.name, args, rules, config?.signal, () => run(args, manager, config))
    } catch (e) {
      const text = refusal(e), now = calls.getStore()
      if (text === undefined || !now) throw e
      // As content the framework makes the message of it that its models know.
      now.refused = true
      return t.responseFormat === 'content_and_artifact' ? [text, undefined] : text
    }
  }
  t.invoke = async (input: any, config?: any) => {
    const isCall = input?.type === 'tool_call' && typeof input.id === 'string'
    // Without a message to put it in, a refusal is thrown, also in a tool that another calls.
    if (!isCall) return calls.run(undefined as any, () => invoke(input, config))
    const now = { refused: false }
    const out = await calls.run(now, () => invoke(input, config))
    if (now.refused && out && typeof out === 'object') out.status = 'error'
    return out
  }
  return tool
}
