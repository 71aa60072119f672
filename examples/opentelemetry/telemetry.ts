/** What happens at a gate, for OpenTelemetry: counters, and attributes of the span of each request. */
import { type Meter, metrics, trace } from "@opentelemetry/api";
import type { Keystile, KeystileEvent } from "keystile";

/**
 * Needs the API only: without an SDK in the process nothing is recorded, and nothing is lost. Metrics get no ids and no text
 * of clients, which would make a series of each; spans get the ids.
 */
export function observeGate(gate: Keystile, meter: Meter = metrics.getMeter("keystile")): void {
  const requests = meter.createCounter("keystile.requests", {
    description: "Requests by what became of them.",
    unit: "{request}",
  });
  const alerts = meter.createCounter("keystile.alerts", {
    description: "Quotas and balances that ran low, holds that expired, and usage that nobody knows.",
    unit: "{alert}",
  });

  gate.on("*", (event) => {
    if (event.type.startsWith("request.")) requests.add(1, outcomeOf(event));
    else if (!event.type.startsWith("key.")) alerts.add(1, { "keystile.alert": event.type });
  });

  // Told while the request is judged, in its own context; alerts are told by whichever request wrote them.
  gate.on("request.allowed", ({ keyId }) =>
    mark({ "keystile.outcome": "allowed", "keystile.key.id": keyId }),
  );
  gate.on("request.refused", ({ keyId, reason }) =>
    mark({
      ...{ "keystile.outcome": "refused", "keystile.reason": reason },
      ...(keyId !== undefined && { "keystile.key.id": keyId }),
    }),
  );
  gate.on("request.faulted", ({ code, requestId }) =>
    mark({ "keystile.outcome": "faulted", "keystile.fault": code, "keystile.request.id": requestId }),
  );
}

function outcomeOf(event: KeystileEvent): Record<string, string> {
  const outcome = event.type.slice("request.".length);
  if (event.type === "request.refused")
    return { "keystile.outcome": outcome, "keystile.reason": event.reason };
  if (event.type === "request.faulted") return { "keystile.outcome": outcome, "keystile.fault": event.code };
  if (event.type === "request.judged") return { "keystile.outcome": outcome, "keystile.would": event.would };
  return { "keystile.outcome": outcome };
}

function mark(attributes: Record<string, string>): void {
  trace.getActiveSpan()?.setAttributes(attributes);
}
