import { context, trace } from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import {
  AggregationTemporality,
  InMemoryMetricExporter,
  MeterProvider,
  PeriodicExportingMetricReader,
} from "@opentelemetry/sdk-metrics";
import { InMemorySpanExporter, SimpleSpanProcessor, TracerProvider } from "@opentelemetry/sdk-trace";
import { createKeystile } from "keystile";
import { memoryStore } from "keystile/memory";
import { afterAll, expect, test } from "vitest";
import { observeGate } from "./telemetry.ts";

const spans = new InMemorySpanExporter();
const tracers = new TracerProvider({ spanProcessors: [new SimpleSpanProcessor({ exporter: spans })] });
const measures = new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE);
const meters = new MeterProvider({ readers: [new PeriodicExportingMetricReader({ exporter: measures })] });
context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
const gate = createKeystile({ store: memoryStore(), drainMs: 0 });
observeGate(gate, meters.getMeter("keystile"));

afterAll(async () => {
  context.disable();
  trace.disable();
  await Promise.all([meters.shutdown(), tracers.shutdown(), gate.close()]);
});

test("thirty requests at a time: each span tells of its own, and the counters add up", async () => {
  const { secret, key } = await gate.keys.issue({ quota: 10 });
  const tracer = tracers.getTracer("test");
  const outcomes = await Promise.all(
    Array.from({ length: 30 }, (_, n) =>
      tracer.startActiveSpan(`request ${n}`, async (span) => {
        const headers = n % 3 === 0 ? {} : { authorization: `Bearer ${secret}` };
        const decision = await gate.authorize({ headers, model: `client-text-${n}` });
        span.end();
        return decision.allowed ? "allowed" : decision.refusal.reason;
      }),
    ),
  );
  await tracers.forceFlush();
  const told = spans.getFinishedSpans().map(({ name, attributes }) => {
    const isOfKey = attributes["keystile.key.id"] === key.id;
    return [name, attributes["keystile.reason"] ?? attributes["keystile.outcome"], isOfKey];
  });
  const expected = outcomes.map((outcome, n) => [`request ${n}`, outcome, n % 3 !== 0]);
  expect(told.toSorted()).toEqual(expected.toSorted());

  await meters.forceFlush();
  const points = measures
    .getMetrics()
    .flatMap(({ scopeMetrics }) => scopeMetrics.flatMap(({ metrics }) => metrics))
    .flatMap(({ descriptor, dataPoints }) =>
      dataPoints.map(({ attributes, value }) => [descriptor.name, { ...attributes }, value]),
    );
  expect(points).toEqual(
    expect.arrayContaining([
      ["keystile.requests", { "keystile.outcome": "allowed" }, 10],
      ["keystile.requests", { "keystile.outcome": "refused", "keystile.reason": "credential_missing" }, 10],
      ["keystile.requests", { "keystile.outcome": "refused", "keystile.reason": "key_quota_exhausted" }, 10],
    ]),
  );
  expect(JSON.stringify(points)).not.toContain("client-text");
});
