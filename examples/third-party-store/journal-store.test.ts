import { appendFile, mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { storeConformance, storeDurability } from "keystile/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openJournalStore } from "./journal-store.ts";

let folder: string;
let files = 0;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "journal-"));
});

afterAll(() => rm(folder, { recursive: true }));

function newFile(): string {
  files += 1;
  return join(folder, `${files}.jsonl`);
}

describe("the journal keeps the contract", () => {
  // It is for one process at a time: each store that is open has a file of its own.
  const cases = storeConformance({ open: () => openJournalStore(newFile()) });
  for (const { clause, name, run } of cases) test(`${clause} ${name}`, run);
});

describe("the journal keeps what it acknowledged", () => {
  const cases = storeDurability({ open: () => openJournalStore(join(folder, "kept.jsonl")) });
  for (const { clause, name, run } of cases) test(`${clause} ${name}`, run);
});

// What only the author of a store can know how to bring about.
describe("the journal", () => {
  const group = [
    { id: "key:1", expected: 0, set: 1 },
    { id: "key:2", expected: 0, set: 2 },
  ];

  test("leaves out a line that a crash cut off", async () => {
    const file = newFile();
    const first = await openJournalStore(file);
    await first.write([group]);
    await first.close();
    const line = (await readFile(file, "utf8")).split("\n").at(-2) ?? "";
    await appendFile(file, line.replaceAll("key:", "cut:").slice(0, -1));

    const second = await openJournalStore(file);
    expect((await second.read(["key:1", "key:2", "cut:1", "cut:2"])).documents).toHaveLength(2);
    expect((await second.write([[{ id: "key:3", expected: 0, set: 3 }]])).results).toEqual([
      { written: true, versions: [3] },
    ]);
    await second.close();
    const third = await openJournalStore(file);
    expect((await third.list({ kind: "key", limit: 10 })).documents.map(({ body }) => body)).toEqual([
      1, 2, 3,
    ]);
    await third.close();
  });

  test("is refused to a second process", async () => {
    const file = newFile();
    const store = await openJournalStore(file);
    await expect(openJournalStore(file)).rejects.toMatchObject({ code: "EEXIST" });
    await store.close();
    await (await openJournalStore(file)).close();
  });
});
