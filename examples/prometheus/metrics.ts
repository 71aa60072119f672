/** What happens at a gate, for Prometheus. */
import type { Keystile } from "keystile";
import { Counter, Registry } from "prom-client";

/**
 * Counts the events of a gate. Every label has few values, of ours: an id of a key would make a series for each of them,
 * and the name of a model whatever its clients care to write. `models` are those that get a label of their own.
 */
export function gateMetrics(gate: Keystile, models: readonly string[]): Registry {
  const registry = new Registry();
  const registers = [registry];

  const allowed = new Counter({
    name: "keystile_requests_allowed_total",
    help: "Requests that were let in.",
    labelNames: ["model"],
    registers,
  });
  const refused = new Counter({
    name: "keystile_requests_refused_total",
    help: "Requests that were refused.",
    labelNames: ["status", "reason"],
    registers,
  });
  const faulted = new Counter({
    name: "keystile_requests_faulted_total",
    help: "Requests about which nothing could be decided: answered 503.",
    labelNames: ["code"],
    registers,
  });
  const judged = new Counter({
    name: "keystile_requests_judged_total",
    help: "Requests that went on because a guard only observes, by what it would have done.",
    labelNames: ["would"],
    registers,
  });
  const others = new Counter({
    name: "keystile_events_total",
    help: "Everything else that happened.",
    labelNames: ["type"],
    registers,
  });

  gate.on("*", (event) => {
    switch (event.type) {
      case "request.allowed": {
        const [model] = [event.model].flat();
        return allowed.inc({ model: models.find((name) => name === model) ?? "other" });
      }
      case "request.refused":
        return refused.inc({ status: event.status, reason: event.reason });
      case "request.faulted":
        return faulted.inc({ code: event.code });
      case "request.judged":
        return judged.inc({ would: event.would });
      default:
        return others.inc({ type: event.type });
    }
  });
  return registry;
}
