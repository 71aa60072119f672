import type { IncomingMessage, ServerResponse } from "node:http";
import type { FastifyInstance, FastifyRequest } from "fastify";
import { Hono } from "hono";
import { describe, expectTypeOf, test } from "vitest";
import * as express from "../../src/adapters/express.js";
import * as fastify from "../../src/adapters/fastify.js";
import * as hono from "../../src/adapters/hono.js";
import * as node from "../../src/adapters/node.js";
import type { Allowed, EventOf, FaultCode, Keystile, Reason } from "../../src/index.js";

declare const gate: Keystile;
declare const request: IncomingMessage;
declare const response: ServerResponse;

describe("events", () => {
  test("are typed by their name", () => {
    gate.on("request.refused", (event) => expectTypeOf(event.reason).toEqualTypeOf<Reason>());
    gate.on("request.faulted", (event) => expectTypeOf(event.code).toEqualTypeOf<FaultCode>());
    gate.on("key.revoked", (event) => expectTypeOf(event.type).toEqualTypeOf<"key.revoked">());
    gate.on("balance.low", (event) => expectTypeOf(event.left).toBeNumber());
    gate.on("*", (event) => {
      // @ts-expect-error It may be any event.
      event.reason;
      if (event.type === "usage.unknown") expectTypeOf(event.keyId).toBeString();
    });
    // @ts-expect-error There is no event of that name.
    gate.on("request.denied", () => {});
    // @ts-expect-error Nothing is told of a secret.
    gate.on("key.issued", (event) => event.secret);
    expectTypeOf<EventOf<"quota.low">["thresholdPercent"]>().toBeNumber();
  });

  test("of what was judged say why, by what would have become of it", () => {
    gate.on("request.judged", (event) => {
      // @ts-expect-error Only of what would be refused.
      event.reason;
      if (event.would === "refuse") expectTypeOf(event.reason).toEqualTypeOf<Reason>();
      if (event.would === "pass") expectTypeOf(event.keyId).toBeString();
    });
  });
});

describe("a guard that only observes", () => {
  test("gives what has to be looked into before there is a decision", async () => {
    const judged = await node.keystile(gate, { mode: "observe" })(request, response);
    expectTypeOf(judged).toEqualTypeOf<node.Judged>();
    // @ts-expect-error There may be none.
    judged.decision;
    if (judged.would === "pass") expectTypeOf(judged.decision).toEqualTypeOf<Allowed>();
    // @ts-expect-error It is not known to be allowed.
    judged.key;

    const decision = await node.keystile(gate, { mode: "enforce" })(request, response);
    expectTypeOf(decision).toEqualTypeOf<Allowed | undefined>();
  });

  test("is not made by options of which nobody knows what they say", () => {
    const options = { cost: 1 } as node.GuardOptions<IncomingMessage>;
    expectTypeOf(node.keystile(gate, options)).returns.resolves.toEqualTypeOf<Allowed | undefined>();
    // @ts-expect-error A word, not a flag.
    node.keystile(gate, { mode: true });
    // @ts-expect-error
    node.keystile(gate, { mode: "observed" });
    // @ts-expect-error It takes nothing out of an answer.
    node.keystile(gate, { mode: "observe", stripUsageChunk: true });
    // @ts-expect-error Only one that observes may wait too long.
    node.keystile(gate, { maxWaitMs: 1 });
  });

  test("marks requests by another name, of another type", () => {
    new Hono<hono.ObservingEnv>().use(hono.keystile(gate, { mode: "observe" })).get("/", (c) => {
      expectTypeOf(c.get("keystileJudged")).toEqualTypeOf<hono.Judged>();
      // @ts-expect-error There is no decision to rely on.
      c.get("keystile");
      return c.text("");
    });
    expectTypeOf(express.judgedOf(request)).toEqualTypeOf<express.Judged>();
    expectTypeOf<FastifyRequest["keystileJudged"]>().toEqualTypeOf<fastify.Judged | null>();
    const app = {} as FastifyInstance;
    void app.register(fastify.keystile, { gate, mode: "observe" });
    // @ts-expect-error
    void app.register(fastify.keystile, { gate, mode: "observed" });
  });

  test("hands an upgrade over with what would have become of it", () => {
    node.guardUpgrade(gate, (_request, _socket, _head, judged: node.Judged) => judged.would, {
      mode: "observe",
    });
    // @ts-expect-error What only was observed is no decision.
    node.guardUpgrade(gate, (_request, _socket, _head, decision: Allowed) => decision.key, {
      mode: "observe",
    });
  });
});
