import type { ActPass } from './client.js'
import { guarded, refusal, type Rules } from './tools.js'

interface Registers { registerTool: (...args: any[]) => any }
interface Requests { request: (...args: any[]) => any }

export interface McpOptions {
  /** The server's name in `mcp.SERVER.TOOL`, the tool's name for policy. */
  server: string
  rules?: Rules
}

/**
 * Guards the tools that are registered on an McpServer from now on, with
 * `registerTool` or `tool`, and gives the server back. A refused call is
 * answered with `isError` and the reason. Tools of `experimental.tasks` and
 * handlers set on the server beneath are not guarded.
 */
export function guardServer<S extends Registers>(actpass: ActPass, server: S, o: McpOptions): S {
  const s = server as any
  for (const how of ['registerTool', 'tool']) {
    if (typeof s[how] !== 'function') continue
    const register = s[how].bind(s)
    s[how] = (name: string, ...rest: any[]) => {
      const tool = register(name, ...rest)
      let handler = tool.handler ?? tool.callback
      // The handler gets (args, extra), or (extra) without an input schema.
      const judged = (...a: any[]) => call(actpass, name, a.length > 1 ? a[0] : {}, o, a.at(-1)?.signal, () => handler(...a))
      // Also what update({ callback }) puts there later.
      Object.defineProperty(tool, 'handler' in tool ? 'handler' : 'callback', { get: () => judged, set: (h) => { handler = h }, enumerable: true, configurable: true })
      return tool
    }
  }
  return server
}

/** Guards every tool call that an MCP Client makes, before it is sent, and gives the client back. */
export function guardClient<C extends Requests>(actpass: ActPass, client: C, o: McpOptions): C {
  const c = client as any
  const request = c.request.bind(c)
  c.request = (r: any, ...rest: any[]) => r?.method !== 'tools/call'
    ? request(r, ...rest)
    : call(actpass, r.params.name, r.params.arguments ?? {}, o, rest.at(-1)?.signal, () => request(r, ...rest))
  return client
}

async function call(actpass: ActPass, name: string, args: unknown, o: McpOptions, signal: AbortSignal | undefined, run: () => any): Promise<any> {
  const given = o.rules ?? {}
  const rules: Rules = (n, a) => ({ tool: `mcp.${o.server}.${name}`, ...(typeof given === 'function' ? given(n, a) : given) })
  try {
    return await guarded(actpass, name, args, rules, signal, run, (r) => r?.isError === true)
  } catch (e) {
    const text = refusal(e)
    if (text === undefined) throw e
    return { isError: true, content: [{ type: 'text', text }] }
  }
}
