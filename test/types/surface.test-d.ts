import { describe, expectTypeOf, test } from "vitest";
import {
  type Allowed,
  createKeystile,
  type Decision,
  type Denied,
  decide,
  evaluatePolicy,
  type Granted,
  type Identified,
  type IssuedKey,
  isKeystileError,
  type KeyRecord,
  type Keystile,
  type KeystileError,
  type KeyView,
  newRequestId,
  type RefusalCode,
  type RefusalStatus,
  type Refused,
  renderRefusal,
  type Store,
} from "../../src/index.js";
import { memoryStore } from "../../src/stores/memory.js";

declare const keystile: Keystile;
declare const decision: Decision;
declare const store: Store;
declare const record: KeyRecord;

describe("a decision", () => {
  test("is narrowed by `allowed`", () => {
    if (decision.allowed) {
      expectTypeOf(decision).toEqualTypeOf<Allowed>();
      expectTypeOf(decision.settle).returns.toEqualTypeOf<Promise<void>>();
      // @ts-expect-error What passed has no refusal.
      decision.refusal;
      return;
    }
    expectTypeOf(decision).toEqualTypeOf<Refused>();
    expectTypeOf(decision.refusal.status).toEqualTypeOf<RefusalStatus>();
    // @ts-expect-error What was refused holds nothing that could be settled.
    decision.settle;
    // @ts-expect-error Nor voided.
    decision.void;
  });

  test("has nothing to settle before it is narrowed", () => {
    // @ts-expect-error It may be a refusal.
    decision.settle;
    expectTypeOf(decision.limits).toEqualTypeOf<Allowed["limits"]>();
  });

  test("has an identity for sure only when it is allowed", () => {
    expectTypeOf<Allowed["key"]>().not.toBeNullable();
    expectTypeOf<undefined>().toExtend<Refused["key"]>();
  });

  test("names every status there is, and 503 is none of them", () => {
    expectTypeOf<RefusalStatus>().toEqualTypeOf<401 | 402 | 403 | 429>();
  });

  test("names every code there is", () => {
    if (decision.allowed) return;
    expectTypeOf(decision.refusal.code).toEqualTypeOf<RefusalCode>();
    expectTypeOf<"quota_exceeded">().toExtend<RefusalCode>();
    expectTypeOf<"quota_exhausted">().not.toExtend<RefusalCode>();
    expectTypeOf<string>().not.toExtend<RefusalCode>();
  });

  test("that refuses can be rendered by whoever has the gate", () => {
    if (decision.allowed) return;
    const answer = renderRefusal(decision, { requestId: newRequestId(), wire: keystile.wire });
    expectTypeOf(answer.body).toBeString();
  });

  test("cannot be changed", () => {
    if (decision.allowed) {
      // @ts-expect-error
      decision.estimate = 0;
      // @ts-expect-error
      decision.key.metadata["plan"] = "pro";
      // @ts-expect-error
      decision.limits.push();
      return;
    }
    // @ts-expect-error
    decision.allowed = true;
    // @ts-expect-error
    decision.refusal.status = 401;
  });

  test("of the first phase leads to the second only when it is allowed", async () => {
    const arrival = await keystile.identify({ headers: new Headers() });
    expectTypeOf(arrival).toEqualTypeOf<Identified | Refused>();
    // @ts-expect-error
    arrival.admit;
    if (arrival.allowed) expectTypeOf(arrival.admit()).resolves.toEqualTypeOf<Decision>();
  });
});

describe("a secret", () => {
  test("is on an issued key and on no view of one", () => {
    expectTypeOf<IssuedKey["secret"]>().toBeString();
    expectTypeOf<IssuedKey["key"]>().toEqualTypeOf<KeyView>();
    expectTypeOf<KeyView>().not.toHaveProperty("secret");
    expectTypeOf<Allowed["key"]>().not.toHaveProperty("secret");
    expectTypeOf<KeyRecord>().not.toHaveProperty("secret");
  });

  test("is returned by issue and rotate only", () => {
    const { keys } = keystile;
    expectTypeOf(keys.issue).returns.resolves.toEqualTypeOf<IssuedKey>();
    expectTypeOf(keys.rotate).returns.resolves.toEqualTypeOf<IssuedKey>();
    expectTypeOf(keys.update).returns.resolves.toEqualTypeOf<KeyView>();
    expectTypeOf(keys.disable).returns.resolves.toEqualTypeOf<KeyView>();
    expectTypeOf(keys.enable).returns.resolves.toEqualTypeOf<KeyView>();
    expectTypeOf(keys.revoke).returns.resolves.toEqualTypeOf<KeyView>();
    expectTypeOf(keys.get).returns.resolves.toEqualTypeOf<KeyView | undefined>();
    expectTypeOf(keys.purge).returns.resolves.toBeVoid();
  });

  test("cannot be written into a view, nor anything else", () => {
    const view = {} as KeyView;
    // @ts-expect-error
    view.secret = "sk-";
    // @ts-expect-error
    view.state = "active";
    // @ts-expect-error
    view.limits.push({ inFlight: 1 });
    // @ts-expect-error
    view.metadata["plan"] = "pro";
    // @ts-expect-error
    view.quota.used = 0;
  });
});

describe("what is handed in", () => {
  test("may be read-only", () => {
    createKeystile({
      store,
      credentials: ["bearer", "api-key"] as const,
      peppers: [{ id: "a", secret: "" }] as const,
      trustedProxies: ["10.0.0.0/8"] as const,
    });
    expectTypeOf(memoryStore).returns.toExtend<Store>();
    const limits = [{ requests: 1, windowMs: 1_000 }, { inFlight: 1 }] as const;
    expectTypeOf(keystile.keys.issue({ limits })).resolves.toEqualTypeOf<IssuedKey>();
  });

  test("takes headers in all their forms", () => {
    const authorize = (headers: Parameters<Keystile["authorize"]>[0]["headers"]) =>
      keystile.authorize({ headers });
    expectTypeOf(authorize).toBeCallableWith(new Headers());
    expectTypeOf(authorize).toBeCallableWith(["authorization", "Bearer x"]);
    expectTypeOf(authorize).toBeCallableWith({ authorization: ["Bearer x"], host: undefined });
  });

  test("must be known", () => {
    // @ts-expect-error There is no keystile without a store.
    createKeystile({});
    // @ts-expect-error An unknown option.
    createKeystile({ store, storeTimeout: 5 });
    // @ts-expect-error No source of that name.
    createKeystile({ store, credentials: ["authorization"] });
    // @ts-expect-error Proxies are a list, never true.
    createKeystile({ store, trustedProxies: true });
    // @ts-expect-error
    createKeystile({ store, checksum: true });
    // @ts-expect-error
    createKeystile({ store, onCrash: "forget" });
    createKeystile({ store, leases: { revalidateMs: 500, keys: (key) => key.owner === "busy" } });
    // @ts-expect-error a share is called so
    createKeystile({ store, leases: { share: 10 } });
    // @ts-expect-error A pepper has an id.
    createKeystile({ store, peppers: ["secret"] });
  });

  test("to the keyring must be known, too", () => {
    const { keys } = keystile;
    // @ts-expect-error
    void keys.issue({ quotas: 1 });
    // @ts-expect-error
    void keys.issue({ quota: "1" });
    // @ts-expect-error
    void keys.issue({ kind: "trial" });
    // @ts-expect-error A limit has a window.
    void keys.issue({ limits: [{ requests: 1 }] });
    // @ts-expect-error An owner stays.
    void keys.update("id", { owner: "acme" });
    // @ts-expect-error The state has methods of its own.
    void keys.update("id", { state: "revoked" });
    // @ts-expect-error
    void keys.update("id", {}, { ifVersion: 1 });
    // @ts-expect-error
    void keys.rotate("id", { grace: 1 });
    // @ts-expect-error
    void keys.list({ limits: 1 });
    // @ts-expect-error
    void keys.revoke();
  });

  test("to a request must be known, too", () => {
    const headers = new Headers();
    // @ts-expect-error A request has headers.
    void keystile.authorize({ cost: 1 });
    // @ts-expect-error
    void keystile.authorize({ headers, cost: "1" });
    // @ts-expect-error
    void keystile.authorize({ headers, costs: 1 });
    // @ts-expect-error
    void keystile.authorize({ headers, model: 5 });
  });
});

describe("the kernel", () => {
  test("answers by plain data that is narrowed alike", () => {
    const { verdict, documents } = decide({ key: record }, { facts: {} }, 0);
    expectTypeOf(documents.key).toEqualTypeOf<KeyRecord>();
    if (verdict.allowed) expectTypeOf(verdict).toEqualTypeOf<Granted>();
    else expectTypeOf(verdict).toEqualTypeOf<Denied>();
    // @ts-expect-error
    documents.key.used["key@0"] = 0;
  });

  test("needs the time to be told", () => {
    // @ts-expect-error
    decide({ key: record }, { facts: {} });
    // @ts-expect-error
    evaluatePolicy({ key: record }, {});
  });
});

test("a fault is recognised, and its code is one of those there are", () => {
  const error: unknown = undefined;
  if (!isKeystileError(error)) return;
  expectTypeOf(error).toEqualTypeOf<KeystileError>();
  expectTypeOf<"closed">().toExtend<typeof error.code>();
  // @ts-expect-error
  const isFault = error.code === "out_of_luck";
  expectTypeOf(isFault).toBeBoolean();
});
