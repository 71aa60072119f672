import type { Json } from "../store.js";

/** What is not JSON is no document of ours. As null it is refused by whoever reads it, and by nobody else. */
export function toJson(text: string): Json {
  try {
    return JSON.parse(text) as Json;
  } catch {
    return null;
  }
}
