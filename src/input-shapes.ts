import { z } from "zod";
import type { Limit } from "./documents.js";
import { invalid } from "./invalid-options.js";
import { assertCountable, isRateLimit, MAX_WINDOW_MS, rateOf } from "./rates.js";

/** What people call something. A lone surrogate is no character: some stores refuse it, others take all of them for one. */
export const text: z.ZodString = z
  .string()
  .min(1)
  .max(256)
  .refine((value) => !/\p{Surrogate}/u.test(value), "expected text without lone surrogates");

const requestLimit = z.strictObject({
  requests: z.int().min(1),
  windowMs: z.int().min(1_000).max(MAX_WINDOW_MS),
  burst: z.int().min(1).optional(),
});

const { windowMs, burst } = requestLimit.shape;
const limit = z.union(
  [
    requestLimit.extend({ per: z.literal("model").optional() }).readonly(),
    z
      .strictObject({ tokens: z.int().min(1), windowMs, burst, per: z.literal("model").optional() })
      .readonly(),
    z.strictObject({ inFlight: z.int().min(1) }).readonly(),
  ],
  {
    error:
      "expected { requests, windowMs, burst?, per? }, { tokens, windowMs, burst?, per? } or { inFlight }",
  },
);

export const limitsShape: z.ZodOptional<z.ZodType<readonly Limit[]>> = z
  .array(limit)
  .max(16)
  .readonly()
  .optional();
export const metadataShape: z.ZodOptional<z.ZodType<Readonly<Record<string, string>>>> = z
  .record(z.string().min(1).max(64), z.string().max(512))
  .refine((members) => Object.keys(members).length <= 32, "expected at most 32 members")
  .readonly()
  .optional();

/** A document is 64 KiB at most, and the rest of it is for counters. */
const MAX_POLICY_BYTES = 24_576;

/** @throws KeystileError `invalid_options` for a policy, or terms, that leave too little of a document for the rest. */
export function assertSize(policy: object, path: string, maxBytes: number = MAX_POLICY_BYTES): void {
  const bytes = new TextEncoder().encode(JSON.stringify(policy)).byteLength;
  if (bytes <= maxBytes) return;
  throw invalid(path, `expected at most ${maxBytes} bytes of JSON, received ${bytes}; shorten its lists`);
}

/** @throws KeystileError `invalid_options` for limits of which one would never bind, or that cannot be counted. */
export function checkLimits(limits: readonly Limit[], path: string): void {
  const rates = limits.filter(isRateLimit).map((limit) => rateOf(limit));
  if (new Set(rates.map(({ bucket }) => bucket)).size < rates.length) {
    throw invalid(path, "two limits have the same unit, windowMs and per; keep the tighter one");
  }
  if (limits.length - rates.length > 1) throw invalid(path, "expected at most one inFlight");
  for (const rate of rates) assertCountable(rate, path);
}
