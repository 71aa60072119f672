import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { serve } from "@hono/node-server";
import { type Context, Hono } from "hono";
import { streamSSE } from "hono/streaming";

/** What a request says, as far as it matters here. */
interface ChatRequest {
  readonly model: string;
  readonly messages: readonly { readonly role: string; readonly content: unknown }[];
  readonly stream?: boolean;
  readonly stream_options?: { readonly include_usage?: boolean };
}

export const MODELS: readonly string[] = ["gpt-demo", "gpt-demo-mini", "claude-demo", "research-demo"];

/**
 * A model provider for trying the gateway without an account anywhere: it speaks the chat APIs of OpenAI and
 * Anthropic, streamed or not, and always answers the same to the same question.
 */
export function createModelServer({ apiKey }: { readonly apiKey: string }): Hono {
  const app = new Hono();
  app.use(async (c, next) => {
    const presented = c.req.header("authorization")?.replace("Bearer ", "") ?? c.req.header("x-api-key");
    if (presented === apiKey) return next();
    const message = "This is not the gateway's own key.";
    return c.json(
      { type: "error", error: { message, type: "authentication_error", code: "invalid_api_key" } },
      401,
    );
  });

  app.post("*", async (c, next) => {
    const { model } = await c.req.json<ChatRequest>();
    if (MODELS.includes(model)) return next();
    const message = `There is no model "${model}".`;
    return c.json(
      { type: "error", error: { message, type: "not_found_error", code: "model_not_found" } },
      404,
    );
  });

  app.get("/v1/models", (c) => {
    const data = MODELS.map((id) => ({ id, object: "model", created: 1_767_225_600, owned_by: "demo" }));
    return c.json({ object: "list", data });
  });
  app.post("/v1/chat/completions", async (c) => chatCompletion(c, await c.req.json<ChatRequest>()));
  app.post("/v1/messages", async (c) => message(c, await c.req.json<ChatRequest>()));
  return app;
}

/** Starts it on a free port of this machine. */
export async function startModelServer(options: { readonly apiKey: string }): Promise<{
  readonly url: string;
  close(): void;
}> {
  const { fetch } = createModelServer(options);
  const { server, port } = await new Promise<{ server: Server; port: number }>((resolve) => {
    const starting = serve({ fetch, hostname: "127.0.0.1", port: 0 }, ({ port }: AddressInfo) =>
      resolve({ server: starting as Server, port }),
    );
  });
  return {
    url: `http://127.0.0.1:${port}`,
    close() {
      server.close();
      server.closeAllConnections();
    },
  };
}

function chatCompletion(c: Context, request: ChatRequest): Response {
  const { text, words, inputTokens } = reply(request);
  const head = { id: "chatcmpl-demo", created: 1_767_225_600, model: request.model };
  const usage = {
    prompt_tokens: inputTokens,
    completion_tokens: words.length,
    total_tokens: inputTokens + words.length,
  };
  if (request.stream !== true) {
    const choice = { index: 0, message: { role: "assistant", content: text }, finish_reason: "stop" };
    return c.json({ ...head, object: "chat.completion", choices: [choice], usage });
  }
  const chunk = (delta: object, finish_reason: string | null = null): string =>
    JSON.stringify({
      ...head,
      object: "chat.completion.chunk",
      choices: [{ index: 0, delta, finish_reason }],
    });
  return streamSSE(c, async (stream) => {
    await stream.writeSSE({ data: chunk({ role: "assistant", content: "" }) });
    for (const content of words) await stream.writeSSE({ data: chunk({ content }) });
    await stream.writeSSE({ data: chunk({}, "stop") });
    if (request.stream_options?.include_usage === true) {
      const data = JSON.stringify({ ...head, object: "chat.completion.chunk", choices: [], usage });
      await stream.writeSSE({ data });
    }
    await stream.writeSSE({ data: "[DONE]" });
  });
}

function message(c: Context, request: ChatRequest): Response {
  const { text, words, inputTokens } = reply(request);
  const head = {
    id: "msg_demo",
    type: "message",
    role: "assistant",
    model: request.model,
    stop_sequence: null,
  };
  const usage = { input_tokens: inputTokens, output_tokens: words.length };
  if (request.stream !== true) {
    return c.json({ ...head, content: [{ type: "text", text }], stop_reason: "end_turn", usage });
  }
  return streamSSE(c, async (stream) => {
    const send = (type: string, data: object): Promise<void> =>
      stream.writeSSE({ event: type, data: JSON.stringify({ type, ...data }) });
    const started = { ...usage, output_tokens: 1 };
    await send("message_start", { message: { ...head, content: [], stop_reason: null, usage: started } });
    await send("content_block_start", { index: 0, content_block: { type: "text", text: "" } });
    for (const text of words)
      await send("content_block_delta", { index: 0, delta: { type: "text_delta", text } });
    await send("content_block_stop", { index: 0 });
    await send("message_delta", { delta: { stop_reason: "end_turn", stop_sequence: null }, usage });
    await send("message_stop", {});
  });
}

/** The same answer to the same question. A token is a word here. */
function reply({ model, messages }: ChatRequest): {
  text: string;
  words: readonly string[];
  inputTokens: number;
} {
  const question = messages.at(-1)?.content;
  const asked = typeof question === "string" ? question : JSON.stringify(question);
  const text = `This is ${model}. You said: ${asked}`;
  const inputTokens = JSON.stringify(messages).split(/\s+/).length;
  return { text, words: text.match(/\S+\s*/g) ?? [], inputTokens };
}
