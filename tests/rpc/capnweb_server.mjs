// A server on the stock capnweb package, for C++ clients: node capnweb_server.mjs NODE_MODULES
// Prints "LISTENING <port>" and serves until its standard input ends.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import path from "node:path";

const [modules] = process.argv.slice(2);
const require = createRequire(path.join(modules, "index.js"));
const { WebSocket, WebSocketServer } = require("ws");
globalThis.WebSocket = WebSocket;
const { newWebSocketRpcSession, RpcTarget } = await import(pathToFileURL(path.join(modules, "capnweb/dist/index.js")));

const disposed = new Map();
class Counter extends RpcTarget {
  #n; constructor(n) { super(); this.#n = n; }
  increment(by = 1) { return this.#n += by; }
  get value() { return this.#n; }
}
class Tracked extends RpcTarget {
  #tag; constructor(tag) { super(); this.#tag = tag; }
  ping() { return "pong"; }
  [Symbol.dispose]() { disposed.set(this.#tag, (disposed.get(this.#tag) ?? 0) + 1); }
}
class Main extends RpcTarget {
  #callback; #sink = { bytes: 0, closed: false, aborted: false };
  square(i) { return i * i; }
  echo(x) { return x?.dup ? x.dup() : x; }
  get version() { return "node"; }
  makeCounter(n) { return new Counter(n); }
  incrementCounter(counter, by) { return counter.increment(by); }
  makeTracked(tag) { return new Tracked(tag); }
  disposedCount(tag) { return disposed.get(tag) ?? 0; }
  throwError() { throw new RangeError("test error"); }
  throwValue(x) { throw x; }
  callFunction(f, i) { return f(i); }
  setCallback(f) { this.#callback = f.dup(); }
  fireCallback(x) { return this.#callback(x); }
  clearCallback() { this.#callback[Symbol.dispose](); this.#callback = undefined; }
  // Promises that nobody keeps are disposed by hand: the package does not collect them.
  pipelineOnClient(t) { const c = t.makeCounter(10), result = c.increment(5); c[Symbol.dispose](); return result; }
  listIds() { return ["u1", "u2", "u3"]; }
  getName(id) { return "name-" + id; }
  mapOnClient(t) { const ids = t.listIds(), result = ids.map(id => t.getName(id)); ids[Symbol.dispose](); return result; }
  kind(x) { return x?.constructor?.name ?? String(x); }
  async echoBlob(blob) { return new Blob([await blob.arrayBuffer()], { type: blob.type }); }
  async consume(stream) { let bytes = 0; for await (const chunk of stream) bytes += chunk.length; return bytes; }
  produce(total, chunk) {
    let at = 0;
    return new ReadableStream({ pull(c) {
      if (at === total) return c.close();
      const n = Math.min(chunk, total - at);
      at += n;
      c.enqueue(new Uint8Array(n).fill(7));
    } });
  }
  produceThenFail(n) { let i = 0; return new ReadableStream({ pull(c) { if (i === n) return c.error(new TypeError("stream broke")); c.enqueue({ i: i++ }); } }); }
  async writeTo(stream, n) { const w = stream.getWriter(); for (let i = 0; i < n; ++i) await w.write({ i }); await w.close(); return n; }
  getSink() { const sink = this.#sink; return new WritableStream({ write(chunk) { sink.bytes += chunk.length; }, close() { sink.closed = true; }, abort() { sink.aborted = true; } }); }
  sinkState() { return { ...this.#sink }; }
  async request(r) { return { url: r.url, method: r.method, body: await r.text(), header: r.headers.get("k") }; }
  response() { return new Response("body", { status: 404, headers: { k: "v" } }); }
}

const server = new WebSocketServer({ host: "127.0.0.1", port: 0 }, () => console.log(`LISTENING ${server.address().port}`));
server.on("connection", socket => newWebSocketRpcSession(socket, new Main()));
process.stdin.on("end", () => process.exit(0)).resume();
