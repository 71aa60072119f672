import type { Reporter, TestModule } from "vitest/node";
import { hasValidChecksum } from "../../src/secret.js";

/** Published test values. Secrets of fixtures have no valid checksum, so that real ones stand out. */
const PUBLISHED = new Set([
  "sk-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef1W1e6b",
  "sk-sub-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef2Nap6F",
]);

/** Fails the run when anything that a test printed or threw holds a secret that was issued in it. */
export default class LeakReporter implements Reporter {
  onUserConsoleLog(log: Parameters<NonNullable<Reporter["onUserConsoleLog"]>>[0]): void {
    this.search(log.content, `what ${log.taskId ?? "a test"} printed`);
  }

  onTestRunEnd(modules: readonly TestModule[]): void {
    for (const module of modules) {
      for (const test of module.children.allTests()) {
        for (const error of test.result().errors ?? []) {
          this.search(`${error.message}\n${error.stack ?? ""}`, `an error of ${test.fullName}`);
        }
      }
    }
  }

  private search(text: string, where: string): void {
    const secrets = text.match(/sk-(?:sub-)?[A-Za-z0-9]{32,}/g) ?? [];
    const leaked = secrets.filter((secret) => hasValidChecksum(secret) && !PUBLISHED.has(secret));
    if (leaked.length === 0) return;
    console.error(
      `LEAK: ${where} holds ${leaked.length} secret(s), the first ending in ${leaked[0]?.slice(-4)}.`,
    );
    process.exitCode = 1;
  }
}
