// A client on the official TypeScript SDK, version 1: what most deployed hosts are built on. It knows no revision after
// 2025-11-25. Arguments: the URL, the plan as JSON, the path of steps.mjs. Its report is its last line.
// Given to Node with --eval, so that its imports are those of the folder it is started in.

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import {
  CreateMessageRequestSchema,
  ElicitRequestSchema,
  ResourceUpdatedNotificationSchema,
} from "@modelcontextprotocol/sdk/types.js";

const [url, plan, stepsPath] = process.argv.slice(1);
const { promised, takeSteps } = await import(stepsPath);
const { answer, thought, ...steps } = JSON.parse(plan);

const questions = [];
const prompts = [];
const [updated, setUpdated] = promised();

const client = new Client(
  { name: "typescript-v1", version: "1.0.0" },
  { capabilities: { elicitation: {}, sampling: {} } },
);
client.setRequestHandler(ElicitRequestSchema, ({ params }) => {
  questions.push(params.message);
  return { action: "accept", content: answer };
});
client.setRequestHandler(CreateMessageRequestSchema, ({ params }) => {
  prompts.push(params.messages[0].content.text);
  return { role: "assistant", content: { type: "text", text: thought }, model: "none" };
});
client.setNotificationHandler(ResourceUpdatedNotificationSchema, ({ params }) => setUpdated(params.uri));

const transport = new StreamableHTTPClientTransport(new URL(url));
await client.connect(transport);
const report = await takeSteps(
  {
    questions,
    prompts,
    updated,
    server: () => client.getServerVersion().name,
    revision: () => transport.protocolVersion,
    toolNames: async () => (await client.listTools()).tools.map((tool) => tool.name),
    callTool: (params, options) => client.callTool(params, undefined, options),
    subscribe: async (uri) => {
      await client.subscribeResource({ uri });
      return () => client.unsubscribeResource({ uri });
    },
  },
  steps,
);
await transport.terminateSession();
await client.close();

console.log(JSON.stringify(report));
