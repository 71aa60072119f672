import type { Reporter, TestModule } from "vitest/node";

/** Prints `N passed, N failed, N skipped` alone on the last line, for machines that read it. */
export default class PlainLineReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[]): void {
    const counted = { passed: 0, failed: 0, skipped: 0 };
    for (const module of modules) {
      if (module.errors().length > 0) counted.failed += 1;
      for (const test of module.children.allTests()) {
        const { state } = test.result();
        if (state === "pending") counted.skipped += 1;
        else counted[state] += 1;
      }
    }
    process.on("exit", () => {
      console.log(`\n${counted.passed} passed, ${counted.failed} failed, ${counted.skipped} skipped`);
    });
  }
}
