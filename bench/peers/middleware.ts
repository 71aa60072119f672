/** What is usually put in front of an API with these frameworks: one static key, and a limit of requests in memory. */
import bearerAuthPlugin from "@fastify/bearer-auth";
import rateLimitPlugin from "@fastify/rate-limit";
import type { Express } from "express";
import { rateLimit } from "express-rate-limit";
import type { FastifyInstance } from "fastify";
import type { Hono } from "hono";
import { bearerAuth } from "hono/bearer-auth";
import { rateLimiter } from "hono-rate-limiter";
import passport from "passport";
import { HeaderAPIKeyStrategy } from "passport-headerapikey";

const WINDOW_MS = 60_000;
const MOST = 1_000_000_000;

export function guardExpress(app: Express, secret: string): void {
  const strategy = new HeaderAPIKeyStrategy(
    { header: "Authorization", prefix: "Bearer " },
    false,
    (presented: string, done: (error: Error | null, user?: object | false) => void) =>
      done(null, presented === secret ? { name: "bench" } : false),
  );
  passport.use(strategy);
  app.use(passport.authenticate("headerapikey", { session: false }));
  app.use(rateLimit({ windowMs: WINDOW_MS, limit: MOST }));
}

export async function guardFastify(app: FastifyInstance, secret: string): Promise<void> {
  await app.register(rateLimitPlugin, { timeWindow: WINDOW_MS, max: MOST });
  await app.register(bearerAuthPlugin, { keys: new Set([secret]) });
}

export function guardHono(app: Hono, secret: string): void {
  app.use(bearerAuth({ token: secret }));
  app.use(rateLimiter({ windowMs: WINDOW_MS, limit: MOST, keyGenerator: () => "bench" }));
}
