// The seat map in two real browser windows: what one books the other sees, at once, and both
// find their way back after the server was killed.
//
//   node flights_page_test.mjs FLIGHTS_PROGRAM PAGE_FOLDER MODEL [SCREENSHOT_FOLDER]
//
// Needs EDGE_NODE_MODULES (playwright-core, capnweb) and Debian's chromium.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

const [program, page, model, screenshots] = process.argv.slice(2);
const modules = process.env.EDGE_NODE_MODULES;
assert(modules, "EDGE_NODE_MODULES is not set; scripts/setup fills build/node/node_modules");
const { chromium } = createRequire(join(modules, "x.js"))("playwright-core");

const data = mkdtempSync(join(tmpdir(), "edge-flights-page-"));
let server;

function start(port) {
  return new Promise((resolve, reject) => {
    server = spawn(program, ["serve", "--data", data, "--port", String(port), "--page", page,
      "--client", join(modules, "capnweb/dist/index.js"), "--model", model],
      { stdio: ["ignore", "pipe", "inherit"] });
    server.on("exit", () => reject(new Error("the server ended before it listened")));
    let text = "";
    server.stdout.on("data", (chunk) => {
      text += chunk;
      const found = text.match(/LISTENING \S+:(\d+)/);
      if (found) resolve(Number(found[1]));
    });
  });
}

async function stop(signal) {
  server.removeAllListeners("exit");
  const ended = new Promise((resolve) => server.on("exit", resolve));
  server.kill(signal);
  await ended;
}

let browser;
try {
  const port = await start(0);
  browser = await chromium.launch({
    executablePath: process.env.EDGE_CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
      "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
  const desk = await (await browser.newContext({ viewport: { width: 1280, height: 900 } })).newPage();
  const phone = await (await browser.newContext({ viewport: { width: 390, height: 844 }, isMobile: true,
    hasTouch: true, deviceScaleFactor: 2 })).newPage();
  const problems = [];
  for (const [name, window] of [["desk", desk], ["phone", phone]]) {
    window.on("pageerror", (error) => problems.push(`${name}: ${error.message}`));
    await window.goto(`http://127.0.0.1:${port}/#UA17-2026-11-23`);
    await window.locator("#link[data-state=live]").waitFor();
    assert.equal(await window.locator("#seats .seat").count(), 180);
  }

  // A seat booked in one window turns taken in the other.
  await desk.fill("#name", "Ada");
  await desk.click("#seat-12C");
  await desk.locator("#seat-12C.mine").waitFor();
  await phone.locator("#seat-12C.taken").waitFor();
  assert.equal(await phone.locator("#free").textContent(), "179");

  // Moving frees the old one, in both.
  await desk.click("#seat-14A");
  await desk.locator("#seat-14A.mine").waitFor();
  await phone.locator("#seat-12C:not(.taken)").waitFor();

  // The other direction, by touch; a taken seat cannot be pressed.
  await phone.fill("#name", "Grace");
  await phone.tap("#seat-2F");
  await phone.locator("#seat-2F.mine").waitFor();
  await desk.locator("#seat-2F.taken").waitFor();
  assert(await desk.locator("#seat-2F").isDisabled());
  // Nothing may stick out sideways on a phone.
  assert(await phone.evaluate(() => document.documentElement.scrollWidth <= innerWidth));

  // The assistant's words arrive piece by piece.
  await desk.fill("#question", "Which seats are free?");
  await desk.click("#ask button");
  await desk.locator("#talk .it:not(:empty)").waitFor();
  await desk.locator("#speed", { hasText: "tokens/s" }).waitFor({ timeout: 60_000 });

  if (screenshots) {
    await desk.screenshot({ path: join(screenshots, "desk.png") });
    await phone.screenshot({ path: join(screenshots, "phone.png") });
  }

  // Killed and started again: both windows come back by themselves, with what was booked.
  await stop("SIGKILL");
  await desk.locator("#link[data-state=lost]").waitFor();
  await start(port);
  await desk.locator("#link[data-state=live]").waitFor();
  await phone.locator("#link[data-state=live]").waitFor();
  await desk.locator("#seat-14A.mine").waitFor();
  await phone.locator("#seat-14A.taken").waitFor();
  await phone.locator("#seat-2F.mine").waitFor();

  assert.deepEqual(problems, []);
  console.log("the seat map is live in every window, before and after a kill");
} finally {
  await browser?.close();
  if (server && server.exitCode === null) await stop("SIGTERM");
  rmSync(data, { recursive: true, force: true });
}
