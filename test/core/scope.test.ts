import { getEventListeners } from "node:events";
import t from "tap";
import { ChildSignal, Scope, TaskGroup, untilAborted } from "../../core/scope.js";

const never = (signal: AbortSignal): Promise<void> =>
  new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));

t.test("Scope releases in reverse order, all of them, and rethrows the first error", async (t) => {
  const order: string[] = [];
  const scope = new Scope();
  scope.defer(() => order.push("first"));
  scope.defer(() => {
    order.push("second");
    throw new Error("second failed");
  });
  scope.defer(() => {
    order.push("third");
    throw new Error("third failed");
  });
  await t.rejects(scope[Symbol.asyncDispose](), { message: "third failed" });
  t.same(order, ["third", "second", "first"]);
  await t.rejects(scope[Symbol.asyncDispose](), { message: "third failed" }, "a second dispose runs nothing twice");
  t.equal(order.length, 3);
  t.throws(() => scope.defer(() => {}));
});

t.test("ChildSignal follows its parent and leaves no listener behind", async (t) => {
  const parent = new AbortController();
  {
    await using child = new ChildSignal(parent.signal);
    t.equal(getEventListeners(parent.signal, "abort").length, 1);
    t.notOk(child.signal.aborted);
  }
  t.equal(getEventListeners(parent.signal, "abort").length, 0);
  await using child = new ChildSignal(parent.signal);
  parent.abort("over");
  t.equal(child.signal.reason, "over");
  t.equal(new ChildSignal(parent.signal).signal.reason, "over", "also when the parent was aborted before");
});

t.test("TaskGroup aborts the other tasks when one fails, and join tells why", async (t) => {
  const group = new TaskGroup(new AbortController().signal);
  let stopped = false;
  group.start((signal) => never(signal).finally(() => (stopped = true)));
  group.start(async () => {
    throw new Error("broken");
  });
  await t.rejects(group.join(), { message: "broken" });
  t.ok(stopped);
});

t.test("TaskGroup takes an abort as no failure and waits for its tasks on dispose", async (t) => {
  const parent = new AbortController();
  let ended = 0;
  {
    await using group = new TaskGroup(parent.signal);
    group.start((signal) => never(signal).finally(() => (ended += 1)));
    group.start((signal) => never(signal).finally(() => (ended += 1)));
  }
  t.equal(ended, 2);
  const group = new TaskGroup(parent.signal);
  group.start(never);
  parent.abort(new Error("stop"));
  await group.join();
});

t.test("TaskGroup can be joined by several", async () => {
  const group = new TaskGroup(new AbortController().signal);
  group.start(() => new Promise((resolve) => setImmediate(resolve)));
  await Promise.all([group.join(), group.join()]);
});

t.test("untilAborted rejects with the reason and detaches afterwards", async (t) => {
  const controller = new AbortController();
  t.equal(await untilAborted(Promise.resolve(7), controller.signal), 7);
  t.equal(getEventListeners(controller.signal, "abort").length, 0);
  const waiting = untilAborted(new Promise(() => {}), controller.signal);
  controller.abort("enough");
  await waiting.then(
    () => t.fail("it should reject"),
    (reason) => t.equal(reason, "enough"),
  );
});
