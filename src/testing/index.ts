export type { ManualClock } from "./manual-clock.js";
export { manualClock } from "./manual-clock.js";
export { sampleAccount } from "./sample-account.js";
export { sampleKey } from "./sample-key.js";
export type { ConformanceCase } from "./store-conformance.js";
export { storeConformance } from "./store-conformance.js";
export { storeDurability } from "./store-durability.js";
