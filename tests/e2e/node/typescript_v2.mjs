// A client on the official TypeScript SDK, version 2, which knows both ways to open: `legacy` sends `initialize`,
// `auto` asks `server/discover` first. Arguments: the URL, the plan as JSON, the path of steps.mjs, and the way to open.
// Its report is its last line. Given to Node with --eval, so that its imports are those of the folder it is started in.

import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

const [url, plan, stepsPath, mode] = process.argv.slice(1);
const { promised, takeSteps } = await import(stepsPath);
const { answer, thought, ...steps } = JSON.parse(plan);

const questions = [];
const prompts = [];
const [updated, setUpdated] = promised();

const client = new Client(
  { name: "typescript-v2", version: "1.0.0" },
  { capabilities: { elicitation: {}, sampling: {} }, versionNegotiation: { mode } },
);
client.setRequestHandler("elicitation/create", ({ params }) => {
  questions.push(params.message);
  return { action: "accept", content: answer };
});
client.setRequestHandler("sampling/createMessage", ({ params }) => {
  prompts.push(params.messages[0].content.text);
  return { role: "assistant", content: { type: "text", text: thought }, model: "none" };
});
client.setNotificationHandler("notifications/resources/updated", ({ params }) => setUpdated(params.uri));

const transport = new StreamableHTTPClientTransport(new URL(url));
await client.connect(transport);
const isModern = client.getNegotiatedProtocolVersion() >= "2026-07-28";
const report = await takeSteps(
  {
    questions,
    prompts,
    updated,
    server: () => client.getServerVersion()?.name ?? null,
    revision: () => client.getNegotiatedProtocolVersion(),
    toolNames: async () => (await client.listTools()).tools.map((tool) => tool.name),
    callTool: (params, options) => client.callTool(params, options),
    subscribe: async (uri) => {
      if (isModern) {
        const subscription = await client.listen({ resourceSubscriptions: [uri] });
        return () => subscription.close();
      }
      await client.subscribeResource({ uri });
      return () => client.unsubscribeResource({ uri });
    },
  },
  steps,
);
if (!isModern) await transport.terminateSession();
await client.close();

console.log(JSON.stringify(report));
