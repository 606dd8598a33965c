// A client on the official TypeScript SDK, version 1: what most deployed hosts are built on.
// It talks to @modelcontextprotocol/server-everything at the URL given as its only argument, and prints what it saw as
// one line of JSON. Fed to Node on stdin, so that its imports are those of the folder it is started in.

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const client = new Client({ name: "typescript-client", version: "1.0.0" });
const transport = new StreamableHTTPClientTransport(new URL(process.argv[2]));
await client.connect(transport);
const { sessionId, protocolVersion } = transport;

const { tools } = await client.listTools();
const echo = await client.callTool({ name: "echo", arguments: { message: "grüezi" } });
const progress = [];
await client.callTool(
  { name: "trigger-long-running-operation", arguments: { duration: 0.2, steps: 4 } },
  undefined,
  { onprogress: (step) => progress.push([step.progress, step.total]) },
);
await transport.terminateSession();
await client.close();

console.log(
  JSON.stringify({
    server: client.getServerVersion().name,
    protocolVersion,
    hadSession: sessionId !== undefined,
    tools: tools.map((tool) => tool.name),
    echo: echo.content,
    progress,
  }),
);
