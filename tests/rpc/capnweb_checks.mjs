// What a stock capnweb client, in Node or in a page, must find at the object of
// tests/rpc/conformance.h: run(capnweb, url) gives { passed, failed, log }. `url` is ws://...
const text = x => JSON.stringify(x, (_, v) => typeof v === "bigint" ? v + "n" : v === undefined ? "undefined" :
  typeof v === "number" && !Number.isFinite(v) ? String(v) : v instanceof Map ? [...v] : v) ?? String(x);
function same(a, b) {
  if (Object.is(a, b)) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return a === b;
  if (a.constructor?.name !== b.constructor?.name && !(a instanceof Uint8Array && b instanceof Uint8Array)) return false;
  if (a instanceof Date) return Object.is(a.getTime(), b.getTime());
  if (a instanceof URL) return a.href === b.href;
  const keys = Object.keys(a);
  return keys.length === Object.keys(b).length && keys.every(key => key in b && same(a[key], b[key]));
}
export const assert = {
  ok(x, why) { if (!x) throw new Error(why ?? `${text(x)} is not true`); },
  equal(a, b) { if (!(Object.is(a, b) || a === b)) throw new Error(`${text(a)} is not ${text(b)}`); },
  deepEqual(a, b) { if (!same(a, b)) throw new Error(`${text(a)} is not ${text(b)}`); },
  match(a, b) { if (!b.test(a)) throw new Error(`${text(a)} does not match ${b}`); },
};
export const rejects = async (promise, name, message) => {
  try { await promise; } catch (error) {
    assert.equal(error.name, name);
    if (message) assert.match(error.message, message);
    return error;
  }
  throw new Error("did not reject");
};
export function checker() {
  const result = { passed: 0, failed: 0, log: [] };
  result.check = async (name, body) => {
    try {
      let timer;
      const late = new Promise((_, no) => { timer = setTimeout(() => no(new Error("no answer in 20 s")), 20000); });
      await Promise.race([body(), late]).finally(() => clearTimeout(timer));
      ++result.passed;
    } catch (error) {
      ++result.failed;
      result.log.push(`FAILED ${name}: ${error?.stack ?? error}`);
    }
  };
  return result;
}
const hex = x => { const v = new DataView(new ArrayBuffer(8)); v.setFloat64(0, x); return [...new Uint8Array(v.buffer)].map(b => b.toString(16).padStart(2, "0")).join(""); };
const streamOf = items => new ReadableStream({ start(c) { for (const item of items) c.enqueue(item); c.close(); } });
const all = async stream => { const items = []; const r = stream.getReader(); for (;;) { const { done, value } = await r.read(); if (done) return items; items.push(value); } };
const adler = bytes => { let a = 1, b = 0; for (const x of bytes) { a = (a + x) % 65521; b = (b + a) % 65521; } return (b << 16 | a) >>> 0; };

export async function run({ newWebSocketRpcSession, RpcTarget, RpcStub }, url) {
const result = checker();
const { check } = result;
const open = () => newWebSocketRpcSession(url);
class Counter extends RpcTarget {
  #n; constructor(n) { super(); this.#n = n; }
  increment(by = 1) { return this.#n += by; }
  get value() { return this.#n; }
}
class Maker extends RpcTarget { makeCounter(n) { return new Counter(n); } square(i) { return i * i; } }

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
  for (const value of values) assert.deepEqual(await api.echo(value), value);
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
await check("lists mapped in one round trip", async () => {
  assert.deepEqual(await api.listIds().map(id => api.getName(id)), ["u1", "u2", "u3", "u4", "u5"].map(id => "name-" + id));
  assert.deepEqual(await api.listIds().map(id => ({ id, name: api.getName(id), fixed: [1, [2]] })),
    ["u1", "u2", "u3", "u4", "u5"].map(id => ({ id, name: "name-" + id, fixed: [1, [2]] })));
  assert.deepEqual(await api.listTeams().map(team => ({ id: team.id, names: team.members.map(m => api.getName(m)) })),
    [{ id: 1, names: ["name-u1", "name-u2"] }, { id: 2, names: ["name-u3"] }]);
  assert.equal(await api.maybeId(false).map(id => api.getName(id)), null);
  assert.equal(await api.maybeId(true).map(id => api.getName(id)), "name-u9");
  assert.equal(await api.returnUndefined().map(id => api.getName(id)), undefined);
  const doubler = new RpcStub(x => x + x);
  assert.deepEqual(await api.listIds().map(id => doubler(id)), ["u1u1", "u2u2", "u3u3", "u4u4", "u5u5"]);
  await rejects(api.listIds().map(id => api.square(id)), "TypeError", /expected a number/);
  await rejects(api.throwError().map(id => api.getName(id)), "RangeError", /test error/);
});
await check("table counts", async () => {
  const other = open();
  assert.deepEqual(await other.stats(), { imports: 1, exports: 2 });
  const kept = await other.makeCounter(1);
  assert.deepEqual(await other.stats(), { imports: 1, exports: 3 });
  kept[Symbol.dispose]();
  await other.square(2); await all(await other.produce(10, 3)); await other.consume(streamOf([new Uint8Array(4)]));
  await other.echoBlob(new Blob(["abc"])); await other.callFunction(i => i, 1);
  const list = other.listIds();
  await list.map(id => other.getName(id));
  list[Symbol.dispose]();
  for (let i = 0; ; ++i) {
    const { imports, exports } = await other.stats();
    if (imports === 1 && exports === 2) break;
    assert.ok(i < 1000, `left over: ${imports} imports, ${exports} exports`);
  }
  other[Symbol.dispose]();
});
await check("streams of bytes", async () => {
  const byte = k => (k * 31 + (k >> 8)) & 255;
  const chunks = await all(await api.produce(100_000, 3000));
  assert.equal(chunks.length, 34);
  assert.equal(chunks[33].length, 1000);
  assert.ok(chunks[0] instanceof Uint8Array);
  let k = 0;
  for (const chunk of chunks) for (const x of chunk) assert.equal(x, byte(k++));
  assert.equal(k, 100_000);
  assert.deepEqual(await all(await api.produce(0, 5)), []);
  const data = [new Uint8Array([1, 2, 3]), new Uint8Array(70_000).fill(7), new Uint8Array(0)];
  const flat = Uint8Array.from(data.flatMap(x => [...x]));
  assert.deepEqual(await api.consume(streamOf(data)), { bytes: 70_003, chunks: 3, adler: adler(flat) });
  const big = 24 << 20, piece = new Uint8Array(64 << 10).fill(3);
  let sent = 0;
  const source = new ReadableStream({ pull(c) { if (sent === big) return c.close(); sent += piece.length; c.enqueue(piece); } });
  assert.equal((await api.consume(source)).bytes, big);
  let got = 0;
  for await (const chunk of await api.produce(big, 65_536)) got += chunk.length;
  assert.equal(got, big);
});
await check("streams of values, with their errors", async () => {
  assert.deepEqual(await all(await api.produceValues(5)), [0, 1, 2, 3, 4].map(i => ({ i })));
  const reader = (await api.produceThenFail(2)).getReader();
  assert.deepEqual((await reader.read()).value, { i: 0 });
  await rejects((async () => { for (;;) if ((await reader.read()).done) return; })(), "TypeError", /^stream broke$/);
  assert.deepEqual(await api.consumeOrError(streamOf([1, "b", { c: 3 }])), { chunks: 3, error: null });
  let step = 0;
  const breaks = new ReadableStream({ pull(c) { if (step++ < 2) return c.enqueue(step); c.error(new RangeError("mine broke")); } });
  const seen = await api.consumeOrError(breaks);
  assert.equal(seen.error, "RangeError:mine broke");
  assert.ok(seen.chunks <= 2);
});
await check("a stream goes through the server and back", async () => {
  const back = await api.echo(streamOf([{ a: 1 }, new Uint8Array([5]), null]));
  const items = await all(back);
  assert.deepEqual([items[0], items[1][0], items[2]], [{ a: 1 }, 5, null]);
  const nested = await api.echo({ inside: [streamOf([1, 2])] });
  assert.deepEqual(await all(nested.inside[0]), [1, 2]);
});
await check("writable streams, both ways", async () => {
  const got = [];
  let closed = false;
  const mine = new WritableStream({ write(chunk) { got.push(chunk); }, close() { closed = true; } });
  assert.equal(await api.writeTo(mine, 4), 4);
  assert.deepEqual(got, [0, 1, 2, 3].map(i => ({ i })));
  assert.ok(closed);
  const writer = (await api.getSink()).getWriter();
  await writer.write(new Uint8Array(10));
  await writer.write(new Uint8Array(20));
  await writer.close();
  assert.deepEqual(await api.sinkState(), { bytes: 30, closed: true, aborted: false });
  const aborted = (await api.getSink(1)).getWriter();
  await aborted.write(new Uint8Array(5));
  await aborted.abort(new Error("enough"));
  for (let i = 0; !(await api.sinkState()).aborted; ++i) assert.ok(i < 1000);
  assert.equal((await api.sinkState()).closed, false);
  const refusing = new WritableStream({ write() { throw new TypeError("no more"); } });
  await rejects(api.writeTo(refusing, 100), "TypeError", /no more/);
});
await check("a slow reader stops the writer", async () => {
  let made = 0;
  const endless = new ReadableStream({ pull(c) { made += 65_536; c.enqueue(new Uint8Array(65_536)); } });
  let release;
  const gate = new Promise(done => { release = done; });
  const held = await api.echo(endless);          // comes back through our own window, unread
  await Promise.race([gate, new Promise(done => setTimeout(done, 300))]);
  const before = made;
  await new Promise(done => setTimeout(done, 200));
  assert.equal(made, before);
  assert.ok(made < 8 << 20, `${made} bytes were read ahead`);
  release();
  await held.cancel("enough");
  const slow = (await api.getSink(20)).getWriter();
  const writes = [];
  for (let i = 0; i < 40; ++i) writes.push(slow.write(new Uint8Array(64 << 10)));
  await writes[2];
  const { bytes } = await api.sinkState();
  assert.ok(bytes < 40 * (64 << 10));
  await Promise.all(writes); await slow.close();
  assert.equal((await api.sinkState()).bytes, 40 * (64 << 10));
});
await check("a reader that cancels stops what makes the stream", async () => {
  const endless = await api.produce(1e15, 65_536);
  const reader = endless.getReader();
  await reader.read();
  await reader.cancel("enough");
  assert.equal(await api.square(3), 9);
});
await check("blobs, whole", async () => {
  for (const size of [0, 5, 200_000]) {
    const blob = new Blob([new Uint8Array(size).fill(9)], { type: "image/x" });
    const back = await api.echoBlob(blob);
    assert.equal(back.type, "image/x");
    assert.deepEqual(new Uint8Array(await back.arrayBuffer()), new Uint8Array(size).fill(9));
  }
  const nested = await api.echo({ list: [new Blob(["hi"])] });
  assert.equal(await nested.list[0].text(), "hi");
});
await check("headers, requests and responses", async () => {
  const headers = await api.echo(new Headers([["a", "1"], ["b", "2"]]));
  assert.deepEqual([...headers], [["a", "1"], ["b", "2"]]);
  const request = await api.echo(new Request("http://h.example/p?q", { method: "POST", headers: { "x-y": "z" }, body: "text", redirect: "error" }));
  assert.equal(request.url, "http://h.example/p?q"); assert.equal(request.method, "POST");
  assert.equal(request.headers.get("x-y"), "z"); assert.equal(request.redirect, "error");
  assert.equal(await request.text(), "text");
  const plain = await api.echo(new Request("http://h.example/"));
  assert.equal(plain.method, "GET"); assert.equal(plain.body ?? null, null);
  const response = await api.echo(new Response("body", { status: 404, statusText: "gone", headers: { k: "v" } }));
  assert.equal(response.status, 404); assert.equal(response.statusText, "gone"); assert.equal(response.headers.get("k"), "v");
  assert.equal(await response.text(), "body");
  assert.equal((await api.echo(new Response(null, { status: 204 }))).status, 204);
});
await check("every kind of bytes", async () => {
  const buffer = new Uint8Array([1, 2, 3, 4, 5, 6, 7, 8]).buffer;
  for (const type of [DataView, Int8Array, Uint8Array, Uint8ClampedArray, Int16Array, Uint16Array, Int32Array, Uint32Array,
    BigInt64Array, BigUint64Array, Float32Array, Float64Array]) {
    const back = await api.echo(new type(buffer));
    assert.ok(back instanceof type, type.name);
    assert.equal(await api.inspect(new type(buffer)), `b:${type.name}:0102030405060708`);
  }
  assert.ok(await api.echo(buffer) instanceof ArrayBuffer);
  assert.equal(await api.inspect(buffer), "b:ArrayBuffer:0102030405060708");
});
await check("what is broken says so", async () => {
  const other = open();
  const broken = new Promise(done => other.onRpcBroken(done));
  const waits = other.delay(60_000, 1).then(() => "kept", () => "lost");
  await other.square(1);
  other[Symbol.dispose]();
  assert.ok(await broken);
  assert.equal(await waits, "lost");
});
api[Symbol.dispose]();
return result;
}
