// The stock capnweb client against our server: node capnweb_client.mjs NODE_MODULES HOST:PORT
// Prints one line per check and ends with a count; exits 1 if any check failed.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import path from "node:path";
import assert from "node:assert/strict";

const [modules, host] = process.argv.slice(2);
const require = createRequire(path.join(modules, "index.js"));
const { WebSocket } = require("ws");
globalThis.WebSocket = WebSocket;
const capnweb = await import(pathToFileURL(path.join(modules, "capnweb/dist/index.js")));
const { newWebSocketRpcSession, newHttpBatchRpcSession, RpcTarget, RpcStub } = capnweb;

let passed = 0, failed = 0;
async function check(name, body) {
  try {
    await Promise.race([body(), new Promise((_, no) => setTimeout(() => no(new Error("no answer in 20 s")), 20000).unref())]);
    ++passed;
  } catch (error) {
    ++failed;
    console.log(`FAILED ${name}: ${error?.stack ?? error}`);
  }
}
const open = () => newWebSocketRpcSession(`ws://${host}/rpc`);
const rejects = async (promise, name, message) => {
  try { await promise; } catch (error) {
    assert.equal(error.name, name);
    if (message) assert.match(error.message, message);
    return error;
  }
  assert.fail("did not reject");
};
class Counter extends RpcTarget {
  #n; constructor(n) { super(); this.#n = n; }
  increment(by = 1) { return this.#n += by; }
  get value() { return this.#n; }
}
class Maker extends RpcTarget { makeCounter(n) { return new Counter(n); } square(i) { return i * i; } }
const hex = x => { const b = Buffer.alloc(8); b.writeDoubleBE(x); return b.toString("hex"); };

const api = open();
await check("calls", async () => {
  assert.equal(await api.square(7), 49);
  assert.equal(await api.returnNull(), null);
  assert.equal(await api.returnUndefined(), undefined);
  assert.deepEqual(await api.generateFibonacci(8), [0, 1, 1, 2, 3, 5, 8, 13]);
});
await check("values there and back", async () => {
  const values = [null, undefined, true, false, 0, 1.5, -1e300, 5e-324, 2 ** 53, Infinity, -Infinity, NaN,
    "", "caf\u00e9 \u{1F600}", "\ud800 lone", "\u0000\u001f\"\\", 12345678901234567890n, -5n, new Date(1234.0), [], [[]],
    [1, [2, [3]]], {}, { a: [1, { b: null }] }, new Uint8Array([0, 255, 7]), new Uint8Array(0),
    new Float64Array([1.5, -2]), new Uint16Array([1, 65535]), new URL("http://a.example/x?y#z")];
  const plain = x => Buffer.isBuffer(x) ? new Uint8Array(x) : x;  // the client makes Buffers here
  for (const value of values) assert.deepEqual(plain(await api.echo(value)), value);
  assert.equal(Number.isNaN((await api.echo(new Date(NaN))).getTime()), true);
  const big = "x".repeat(3_000_000);
  assert.equal(await api.echo(big), big);
});
await check("values as the server sees them", async () => {
  for (const [value, text] of [[1, "n:" + hex(1)], [0.1, "n:" + hex(0.1)], [NaN, "n:nan"], [2 ** 60, "n:" + hex(2 ** 60)],
    ["é", "s:2:é"], [-12n, "i:-12"], [new Date(5), "d:" + hex(5)], [new Uint8Array([1, 254]), "b:Uint8Array:01fe"],
    [new TypeError("m"), "e:TypeError:m"], [{ b: 1, a: [true] }, `{"a":[true],"b":n:${hex(1)}}`],
    [new Counter(1), "stub"], [() => 1, "stub"], [undefined, "undefined"], [null, "null"], [new URL("http://h/"), "u:http://h/"]])
    assert.equal(await api.inspect(value), text);
});
await check("errors", async () => {
  const range = await rejects(api.throwError(), "RangeError", /^test error$/);
  assert.ok(range instanceof RangeError);
  await rejects(api.nope(), "TypeError", /'nope' is not a function/);
  await rejects(api.square("x"), "TypeError", /expected a number/);
  await rejects(api.version(), "TypeError");
  await rejects(api.instanceProp, "TypeError");
  const props = await rejects(api.throwErrorWith("SyntaxError", "m", { line: 3, why: [1] }), "SyntaxError", /^m$/);
  assert.equal(props.line, 3); assert.deepEqual(props.why, [1]);
  assert.deepEqual(await api.throwValue({ a: [1] }).then(() => "kept", e => e), { a: [1] });
  assert.equal(await api.throwValue("text").then(() => "kept", e => e), "text");
  await rejects(api.authenticate("nobody"), "Error", /^bad token$/);
});
await check("properties", async () => {
  assert.equal(await api.version, "conformance-1");
  assert.equal(await api.unknown, undefined);
  assert.equal(await api.getNested().n, 7);
  const nested = await api.getNested();
  assert.equal(await nested.a.b[1].c.value, 200);
});
await check("objects by reference, pipelined and awaited", async () => {
  assert.equal(await api.makeCounter(4).increment(5), 9);
  const counter = await api.makeCounter(10);
  assert.equal(await counter.increment(), 11);
  assert.equal(await counter.value, 11);
  assert.equal(await api.incrementCounter(counter, 4), 15);
  assert.equal(await api.incrementCounter(api.makeCounter(1), 4), 5);
  assert.equal(await api.incrementCounter(new Counter(40), 2), 42);
  assert.equal(await api.authenticate("ok-ada").getUserId(), "ada");
  assert.equal(await (await api.getAdder(3))(4), 7);
  assert.equal(await api.getAdder(3)(5), 8);
  counter[Symbol.dispose]();
});
await check("promises as arguments", async () => {
  assert.equal(await api.square(api.square(3)), 81);
  assert.deepEqual(await api.echo({ a: [api.square(2), api.returnNull()] }), { a: [4, null] });
  await rejects(api.square(api.throwError()), "RangeError", /test error/);
  const fails = api.authenticate("x");
  await rejects(fails.getUserId(), "Error", /bad token/);
});
await check("calls back into the client", async () => {
  assert.deepEqual(await api.callSquare(new Maker(), 5), { result: 25 });
  assert.deepEqual(await api.callSquare(api, 6), { result: 36 });
  assert.deepEqual(await api.callFunction(i => i + 1, 5), { result: 6 });
  assert.deepEqual(await api.callFunction(async i => { await new Promise(r => setTimeout(r, 5)); return i * 2; }, 5), { result: 10 });
  assert.equal(await api.pipelineOnClient(new Maker()), 15);
  assert.deepEqual(await api.useTwice(x => x + 10, x => x + 20), [11, 22]);
  assert.deepEqual(await api.callAndReport(() => { throw new SyntaxError("mine"); }), { error: "SyntaxError:mine" });
  assert.deepEqual(await api.callAndReport(() => "fine"), { ok: "fine" });
});
await check("a kept callback", async () => {
  const seen = [];
  await api.setCallback(x => { seen.push(x); return seen.length; });
  assert.equal(await api.fireCallback("a"), 1);
  assert.equal(await api.fireCallback({ b: 1 }), 2);
  assert.deepEqual(seen, ["a", { b: 1 }]);
  await api.clearCallback();
  await rejects(api.fireCallback("c"), "Error", /empty stub/);
});
await check("a stub goes there and back as the same object", async () => {
  const counter = new Counter(1);
  const stub = new RpcStub(counter);
  const back = await api.roundTrip(stub);
  assert.equal(await back.stub.increment(1), 2);
  assert.equal(counter.value, 2);
  const theirs = await api.makeCounter(5);
  const again = await api.roundTrip(theirs);
  assert.equal(await again.stub.increment(1), 6);
});
await check("an object is destroyed when its last reference is released", async () => {
  const tag = "t" + Math.random();
  const tracked = await api.makeTracked(tag);
  assert.equal(await tracked.ping(), "pong");
  const twin = tracked.dup();
  tracked[Symbol.dispose]();
  assert.equal(await api.disposedCount(tag), 0);
  twin[Symbol.dispose]();
  assert.equal(await api.disposedCount(tag), 1);
  const unawaited = api.makeTracked(tag);
  unawaited[Symbol.dispose]();
  assert.equal(await api.disposedCount(tag), 2);
});
await check("objects die with the connection", async () => {
  const tag = "c" + Math.random();
  const other = open();
  const kept = await other.makeTracked(tag);
  assert.equal(await kept.ping(), "pong");
  other[Symbol.dispose]();
  for (let i = 0; (await api.disposedCount(tag)) === 0; ++i) assert.ok(i < 5000);
});
await check("calls on one stub arrive in order", async () => {
  const tag = "o" + Math.random();
  for (let i = 0; i < 200; ++i) api.append(tag, i).then(() => {});
  assert.deepEqual(await api.getLog(tag), Array.from({ length: 200 }, (_, i) => i));
});
await check("a late answer", async () => {
  const [slow, quick] = await Promise.all([api.delay(20, "slow"), api.square(2)]);
  assert.equal(slow, "slow"); assert.equal(quick, 4);
});
await check("many calls at once", async () => {
  const results = await Promise.all(Array.from({ length: 2000 }, (_, i) => api.square(i)));
  results.forEach((r, i) => assert.equal(r, i * i));
});
await check("what is not supported ends that session only, with a reason", async () => {
  const other = open();
  await rejects(other.echo(new ReadableStream()), "Error", /not supported/);
  await rejects(other.square(1), "Error");
  assert.equal(await api.square(3), 9);
});
await check("a batch over HTTP", async () => {
  const batch = newHttpBatchRpcSession(`http://${host}/rpc`);
  const user = batch.authenticate("ok-bob");
  const [id, square, counter] = await Promise.all([user.getUserId(), batch.square(batch.square(2)), batch.makeCounter(4).increment(5)]);
  assert.equal(id, "bob"); assert.equal(square, 16); assert.equal(counter, 9);
  const failing = newHttpBatchRpcSession(`http://${host}/rpc`);
  await rejects(failing.throwError(), "RangeError", /test error/);
  const slow = newHttpBatchRpcSession(`http://${host}/rpc`);
  assert.equal(await slow.delay(10, "later"), "later");
});
await check("plain HTTP beside it", async () => {
  const page = await fetch(`http://${host}/page?x=1`);
  assert.equal(page.status, 200);
  assert.equal(await page.text(), "GET /page x=1 ");
  assert.equal(page.headers.get("content-type"), "text/html; charset=utf-8");
  assert.equal(await (await fetch(`http://${host}/page`, { method: "POST", body: "data" })).text(), "POST /page  data");
  const head = await fetch(`http://${host}/page`, { method: "HEAD" });
  assert.equal(head.headers.get("content-length"), "12");
  assert.equal(await (await fetch(`http://${host}/page`)).text(), "GET /page  ");
  assert.equal((await fetch(`http://${host}/nothing`)).status, 404);
  assert.equal((await fetch(`http://${host}/rpc`)).status, 405);
  assert.equal((await fetch(`http://${host}/page`, { method: "DELETE" })).status, 405);
  assert.equal((await fetch(`http://${host}/dropped`)).status, 500);
  assert.equal((await fetch(`http://${host}/rpc/denied`, { method: "POST", body: "" })).status, 403);
  assert.equal((await fetch(`http://${host}/page`, { method: "POST", body: "x".repeat(5_000_000) })).status, 413);
  assert.equal(await (await fetch(`http://${host}/rpc`, { method: "POST", body: "" })).text(), "");
});
await check("pages of other origins are turned away", async () => {
  const status = origin => new Promise(done => {
    const socket = new WebSocket(`ws://${host}/rpc`, { origin });
    socket.on("open", () => { socket.close(); done(101); });
    socket.on("unexpected-response", (_, response) => done(response.statusCode));
    socket.on("error", () => {});
  });
  assert.equal(await status(`http://${host}`), 101);
  assert.equal(await status("http://evil.example"), 403);
  assert.equal(await status("null"), 403);
});
await check("hostile frames close with an abort", async () => {
  const say = frame => new Promise(done => {
    const heard = [];
    const socket = new WebSocket(`ws://${host}/rpc`);
    socket.on("open", () => socket.send(frame));
    socket.on("message", data => heard.push(JSON.parse(data.toString())));
    socket.on("close", code => done([code, heard]));
    socket.on("error", () => {});
  });
  for (const frame of ["x", "[]", '["pull",9]', '["stream",1]', '["push",["remap",0,[],[],[]]]', Buffer.from("[]")]) {
    const [code, heard] = await say(frame);
    assert.equal(code, 3000);
    assert.equal(heard.length, 1);
    assert.equal(heard[0][0], "abort");
  }
  const [code] = await say("[" + " ".repeat(17 << 20) + "]");
  assert.ok(code === 1009 || code === 1006);  // too big; or cut off before it could read why
});
api[Symbol.dispose]();
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
