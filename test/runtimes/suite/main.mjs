/* For runtimes with a command line. The process has to end by itself: nothing of the package may keep it alive. */
import { createKeystile } from "keystile";
import { memoryStore } from "keystile/memory";
import { CORE } from "./core.mjs";
import { report } from "./report.mjs";
import { SERVERS } from "./servers.mjs";

await report([...CORE, ...SERVERS]);
createKeystile({ store: memoryStore() }); // never closed
console.log(JSON.stringify({ name: "the process is free to end" }));
