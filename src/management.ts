/* One part, because whoever manages keys manages accounts as well, and each part of its own is more files to load. */
export { accounts } from "./accounts.js";
export { keyring } from "./keyring.js";
export { usageReports } from "./usage-reports.js";
