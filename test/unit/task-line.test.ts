import { expect, test } from "vitest";
import { systemRuntime } from "../../src/runtime.js";
import { dueInMs, taskLine } from "../../src/task-line.js";

test("a line in which nothing waits is due at once, and not for ever later", () => {
  expect(dueInMs(taskLine(), systemRuntime)).toBe(0);
});
