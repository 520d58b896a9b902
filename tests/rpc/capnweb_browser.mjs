// The stock client in a real browser against the conformance server:
//   node capnweb_browser.mjs NODE_MODULES CONFORMANCE_SERVER
// Needs playwright-core and Debian's chromium (EDGE_CHROMIUM overrides where it is).
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const [modules, program] = process.argv.slice(2);
const { chromium } = createRequire(join(modules, "x.js"))("playwright-core");
const here = dirname(fileURLToPath(import.meta.url));
const files = {
  "/": ["text/html", "<!doctype html><title>conformance</title>"],
  "/capnweb.js": ["text/javascript", readFileSync(join(modules, "capnweb/dist/index.js"))],
  "/checks.mjs": ["text/javascript", readFileSync(join(here, "capnweb_checks.mjs"))],
};
const pages = createServer((request, reply) => {
  const [type, body] = files[request.url] ?? [];
  reply.writeHead(body === undefined ? 404 : 200, { "content-type": type ?? "text/plain" }).end(body ?? "");
});
await new Promise(done => pages.listen(0, "127.0.0.1", done));

const server = spawn(program, ["0"], { stdio: ["pipe", "pipe", "inherit"] });
let browser;
let failed = true;
try {
  const port = await new Promise((done, fail) => {
    let text = "";
    server.on("exit", () => fail(new Error("the server ended before it listened")));
    server.stdout.on("data", chunk => { text += chunk; const found = text.match(/LISTENING (\d+)/); if (found) done(found[1]); });
  });
  browser = await chromium.launch({
    executablePath: process.env.EDGE_CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"],
  });
  const page = await browser.newPage();
  await page.goto(`http://127.0.0.1:${pages.address().port}/`);
  const result = await page.evaluate(async url => {
    const capnweb = await import("/capnweb.js");
    const { run } = await import("/checks.mjs");
    const { passed, failed, log } = await run(capnweb, url);
    return { passed, failed, log };
  }, `ws://127.0.0.1:${port}/`);
  for (const line of result.log) console.log(line);
  console.log(`${result.passed} passed, ${result.failed} failed`);
  failed = result.failed !== 0 || result.passed < 20;
} finally {
  await browser?.close();
  server.stdin.end();
  pages.close();
}
process.exit(failed ? 1 : 0);
