// The peer of rpc_bench: capnweb in Node. node capnweb_peer.mjs NODE_MODULES local|ws CALLS
// Prints "<figure> <sum of results>": ns per call on a local stub, or calls per second with 64
// outstanding, Node to Node over one WebSocket.
import { createRequire } from "node:module";
import { fork } from "node:child_process";
import { fileURLToPath, pathToFileURL } from "node:url";
import path from "node:path";

const [modules, mode, count] = process.argv.slice(2);
const { WebSocket, WebSocketServer } = createRequire(path.join(modules, "index.js"))("ws");
globalThis.WebSocket = WebSocket;
const { newWebSocketRpcSession, RpcTarget, RpcStub } =
  await import(pathToFileURL(path.join(modules, "capnweb/dist/index.js")));
class Squares extends RpcTarget { square(i) { return i * i; } }
const calls = Number(count);

if (mode === "serve") {
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1", perMessageDeflate: false });
  server.on("connection", socket => { socket._socket.setNoDelay(true); newWebSocketRpcSession(socket, new Squares()); });
  server.on("listening", () => process.send(server.address().port));
} else if (mode === "local") {
  const stub = new RpcStub(new Squares());
  for (let i = 0; i < 20000; ++i) await stub.square(3);
  let sum = 0;
  const start = process.hrtime.bigint();
  for (let i = 0; i < calls; ++i) sum += await stub.square(i % 1000);
  console.log(Number(process.hrtime.bigint() - start) / calls, sum);
} else {
  const child = fork(fileURLToPath(import.meta.url), [modules, "serve", "0"]);
  const port = await new Promise(resolve => child.once("message", resolve));
  const api = newWebSocketRpcSession(`ws://127.0.0.1:${port}/`);
  const run = async total => {
    let next = 0, sum = 0;
    await Promise.all(Array.from({ length: 64 }, async () => { while (next < total) { const result = await api.square(next++ % 1000); sum += result; } }));
    return sum;
  };
  await run(5000);
  const start = process.hrtime.bigint();
  const sum = await run(calls);
  console.log(calls / (Number(process.hrtime.bigint() - start) / 1e9), sum);
  child.kill();
  process.exit(0);
}
