/**
 * An API on `node:http` with a span for each request, both printed: in production an exporter sends them elsewhere.
 * PORT: where to listen on 127.0.0.1 (default 8787; 0: any free port).
 */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { context, metrics, SpanKind, trace } from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import {
  ConsoleMetricExporter,
  MeterProvider,
  PeriodicExportingMetricReader,
} from "@opentelemetry/sdk-metrics";
import { BatchSpanProcessor, ConsoleSpanExporter, TracerProvider } from "@opentelemetry/sdk-trace";
import { createKeystile } from "keystile";
import { memoryStore } from "keystile/memory";
import { keystile } from "keystile/node";
import { observeGate } from "./telemetry.ts";

context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
trace.setGlobalTracerProvider(
  new TracerProvider({ spanProcessors: [new BatchSpanProcessor({ exporter: new ConsoleSpanExporter() })] }),
);
metrics.setGlobalMeterProvider(
  new MeterProvider({
    readers: [new PeriodicExportingMetricReader({ exporter: new ConsoleMetricExporter() })],
  }),
);

const gate = createKeystile({ store: memoryStore() });
observeGate(gate);
const { secret } = await gate.keys.issue({ owner: "demo", quota: 1_000, allowedModels: ["gpt-*"] });
const guard = keystile(gate);
const tracer = trace.getTracer("api");

async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const decision = await guard(request, response);
  if (decision === undefined) return;
  response.setHeader("content-type", "application/json");
  response.end(JSON.stringify({ object: "chat.completion", choices: [], model: decision.model }));
}

const server = createServer((request, response) => {
  const method = request.method ?? "";
  tracer.startActiveSpan(
    method,
    { kind: SpanKind.SERVER, attributes: { "http.request.method": method } },
    (span) => {
      response.on("close", () => span.setAttribute("http.response.status_code", response.statusCode).end());
      handle(request, response).catch((error: Error) => {
        span.recordException(error);
        response.destroy();
      });
    },
  );
});

server.listen(Number(process.env["PORT"] ?? 8787), "127.0.0.1", () => {
  console.log(`
  export API_KEY=${secret}

  curl http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/chat/completions -H "x-api-key: $API_KEY" \\
    -H "Content-Type: application/json" -d '{"model":"gpt-demo"}'
`);
});
