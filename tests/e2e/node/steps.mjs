// What both TypeScript clients do with a server, one step after the other. Knows no SDK: `host` says for each step how
// its SDK does it. `tests/support/client_programs.py` takes the same steps in Python, and says what a plan and a report
// contain.

import { once } from "node:events";

export async function takeSteps(host, plan) {
  const call = async (step, options) => said(await host.callTool(step, options));

  const report = { server: host.server(), revision: host.revision(), tools: await host.toolNames(), calls: [] };
  for (const step of plan.calls) report.calls.push(await call(step));

  if (plan.progress) {
    report.progress = [];
    await call(plan.progress, { onprogress: ({ progress, total }) => report.progress.push([progress, total]) });
  }
  if (plan.elicitation) {
    report.elicitation = await call(plan.elicitation);
    report.questions = host.questions;
  }
  if (plan.sampling) {
    report.sampling = await call(plan.sampling);
    report.prompts = host.prompts;
  }
  if (plan.uri) {
    const unsubscribe = await host.subscribe(plan.uri);
    await call(plan.touch);
    report.updated = await host.updated;
    await unsubscribe();
    if (plan.untouch) await call(plan.untouch);
  }
  if (plan.cancel) {
    report.cancelled = await cancelled(plan.cancel, call);
    await theOtherSideHasLooked();
    report.afterwards = await call(plan.calls[0]);
  }
  return report;
}

// Cancel a call that has begun; tell whether it ended by that.
async function cancelled(step, call) {
  const abort = new AbortController();
  const options = { signal: abort.signal, onprogress: () => abort.abort() };
  return await call(step, options).then(
    () => false,
    () => abort.signal.aborted,
  );
}

// A closed connection would cancel, too: keep it open until whoever started us has seen what came of the cancellation.
async function theOtherSideHasLooked() {
  console.log("cancelled");
  await once(process.stdin, "data");
  process.stdin.pause();
}

function said(result) {
  const text = result.content.map((block) => block.text ?? block.type).join("\n");
  if (result.isError) throw new Error(`the tool failed: ${text}`);
  return text;
}

// A value that somebody will bring later, and the function to bring it with.
export function promised() {
  let resolve;
  const value = new Promise((take) => (resolve = take));
  return [value, resolve];
}
