// Compiled by a test, never run. What is expected to be an error is one: tsc
// complains of an expectation that is not met.
import { tool as langchainTool } from '@langchain/core/tools'
import { Client } from '@modelcontextprotocol/sdk/client/index.js'
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js'
import { tool, type ToolSet } from 'ai'
import type OpenAI from 'openai'
import { z } from 'zod'
import type { ActPass } from '@actpass/sdk'
import { guardTools } from '@actpass/sdk/ai'
import { guardTool } from '@actpass/sdk/langchain'
import { guardClient, guardServer } from '@actpass/sdk/mcp'
import { runToolCalls } from '@actpass/sdk/openai'

declare const actpass: ActPass
declare const message: OpenAI.Chat.Completions.ChatCompletionMessage
declare const items: OpenAI.Responses.ResponseFunctionToolCall[]
const f = { refund: (args: { amount: number }) => args.amount }

export async function openai() {
  const calls = message.tool_calls!.filter((c) => c.type === 'function')
  const back: OpenAI.Chat.Completions.ChatCompletionMessageParam[] = [message, ...await runToolCalls(actpass, calls, f, { mode: 'enforce' })]
  const input: OpenAI.Responses.ResponseInput = await runToolCalls(actpass, items, f, (name, args) => ({ tool: name, resource: args.id }))
  // @ts-expect-error a mode that is none
  await runToolCalls(actpass, calls, f, { mode: 'loose' })
  // @ts-expect-error no functions
  await runToolCalls(actpass, calls)
  return [back, input]
}

const one = tool({ inputSchema: z.object({ n: z.number() }), execute: async ({ n }) => n })
export const tools: ToolSet = guardTools(actpass, { one })
export const same: typeof one = guardTools(actpass, { one }).one
// @ts-expect-error a tool that is not there
guardTools(actpass, { one }).two

export const server: McpServer = guardServer(actpass, new McpServer({ name: 's', version: '1' }), { server: 's' })
export const client: Client = guardClient(actpass, new Client({ name: 'c', version: '1' }), { server: 's', rules: { mode: 'strict' } })
// @ts-expect-error which server
guardServer(actpass, server, {})
// @ts-expect-error no server
guardServer(actpass, client, { server: 's' })

const two = langchainTool(async ({ n }: { n: number }) => n, { name: 't', description: 'd', schema: z.object({ n: z.number() }) })
export const kept: typeof two = guardTool(actpass, two)
// @ts-expect-error no tool
guardTool(actpass, {})
