/**
 * Holds the types that users see against the committed reports in `etc/`, one for each subpath, and fails when they
 * differ; with `--accept` it writes them anew. Without the reports a changed signature would be a detail of a large
 * diff, and one changed by accident would not be noticed at all.
 *
 * It goes through `exports` rather than a list of its own, because a subpath that is missing from a list is not
 * noticed either.
 */
import { mkdirSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import {
  ConsoleMessageId,
  Extractor,
  ExtractorConfig,
  ExtractorLogLevel,
  type ExtractorMessage,
} from "@microsoft/api-extractor";
import manifest from "../../package.json" with { type: "json" };

const ROOT = join(import.meta.dirname, "../..");
const REPORTS = join(ROOT, "etc");
const CONFIG = join(ROOT, "api-extractor.json");

const accept = process.argv.includes("--accept");
mkdirSync(REPORTS, { recursive: true });

const reports = new Set<string>();
for (const [subpath, target] of Object.entries(manifest.exports)) {
  if (typeof target === "string") continue; // package.json itself
  const name = subpath === "." ? "index" : subpath.slice("./".length).replaceAll("/", "-");
  reports.add(`${name}.api.md`);
  if (!isReported(name, target.types)) process.exitCode = 1;
}

const committed = readdirSync(REPORTS).filter((file) => file.endsWith(".api.md"));
for (const report of committed.filter((file) => !reports.has(file))) {
  console.log(`etc/${report}: ${accept ? "removed" : "the report of no subpath"}.`);
  if (accept) rmSync(join(REPORTS, report));
  else process.exitCode = 1;
}

if (process.exitCode === 1) console.log("If that is meant: npm run check:api:accept, and commit etc/.");

/** Compares one report with the declarations it is about, or renews it. */
function isReported(name: string, types: string): boolean {
  const config = ExtractorConfig.loadFile(CONFIG);
  config.mainEntryPointFilePath = join(ROOT, types);
  config.apiReport = {
    ...config.apiReport,
    enabled: true,
    reportFileName: name,
    // What keys and options are made of is written out once, where it belongs; elsewhere it is only named.
    includeForgottenExports: name === "index",
  };
  const prepared = ExtractorConfig.prepare({
    configObject: config,
    configObjectFullPath: CONFIG,
    packageJsonFullPath: join(ROOT, "package.json"),
  });
  const { apiReportChanged, errorCount } = Extractor.invoke(prepared, {
    localBuild: accept,
    printApiReportDiff: !accept,
    messageCallback: silenceProgress,
  });
  if (apiReportChanged) {
    console.log(`etc/${name}.api.md: ${accept ? "written anew" : "not what the built package exports"}.`);
  }
  return errorCount === 0 && (accept || !apiReportChanged);
}

/** What remains are errors, and the lines in which a report differs. */
function silenceProgress(message: ExtractorMessage): void {
  const isDiff = message.messageId === ConsoleMessageId.ApiReportDiff;
  message.handled = message.logLevel !== ExtractorLogLevel.Error && !isDiff;
}
