// The stock capnweb client against our server: node capnweb_client.mjs NODE_MODULES HOST:PORT
// Prints one line per check and ends with a count; exits 1 if any check failed.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import path from "node:path";
import { assert, checker, rejects, run } from "./capnweb_checks.mjs";

const [modules, host] = process.argv.slice(2);
const require = createRequire(path.join(modules, "index.js"));
const { WebSocket } = require("ws");
globalThis.WebSocket = WebSocket;
const capnweb = await import(pathToFileURL(path.join(modules, "capnweb/dist/index.js")));
const { newHttpBatchRpcSession } = capnweb;


const shared = await run(capnweb, `ws://${host}/rpc`);
const own = checker();
const { check } = own;
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
  for (const frame of ["x", "[]", '["pull",9]', '["stream"]', '["push",["remap",0,[],[],[]]]', '["push",["readable",4]]', Buffer.from("[]")]) {
    const [code, heard] = await say(frame);
    assert.equal(code, 3000);
    assert.equal(heard.length, 1);
    assert.equal(heard[0][0], "abort");
  }
  const [code] = await say("[" + " ".repeat(17 << 20) + "]");
  assert.ok(code === 1009 || code === 1006);  // too big; or cut off before it could read why
});
const passed = shared.passed + own.passed, failed = shared.failed + own.failed;
for (const line of [...shared.log, ...own.log]) console.log(line);
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
