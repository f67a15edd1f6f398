// Serves the rendered pages of a folder with the unbuilt sources (with BUILT=1: with Vite's build) and a make-believe API, and takes
// their pictures in Chromium: light, dark, and at phone width.
//
//   ORRERY_PREVIEW_DIR=DIR cargo test -p orrery-hub pages_hold
//   node preview/shoot.mjs DIR [PAGE…]        (playwright-core must be resolvable; CHROMIUM names the browser)
import { createServer } from "node:http";
import { readdir, readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { extname, join } from "node:path";
import process from "node:process";

const { chromium } = createRequire(join(process.cwd(), "/"))("playwright-core");
const [directory, ...only] = process.argv.slice(2);
const web = new URL("..", import.meta.url).pathname;
const types = { ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".ico": "image/x-icon" };

const event = (data) => `data: ${JSON.stringify(data)}\n\n`;
const progress = {
  server: [
    { progress: 0, message: "Waiting for a place", queue: { position: 3, eta_seconds: 80 } },
    { progress: 20, message: "Starting the server process" },
    { progress: 55, message: "Waiting for the server to answer", log: ["[I 19:04:11 ServerApp] jupyterlab | extension was successfully linked.", "[I 19:04:12 ServerApp] Serving at http://127.0.0.1:40123/user/ada/"] },
  ],
  failing: [
    { progress: 20, message: "Starting the server process" },
    {
      progress: 100,
      failed: true,
      message: "Spawn failed: the server ended before it answered.",
      cause: "exited",
      exit_code: 1,
      log: ["Traceback (most recent call last):", '  File "/opt/venv/bin/jupyterhub-singleuser", line 5, in <module>', "ModuleNotFoundError: No module named 'jupyterlab'"],
    },
  ],
};
const model = { ready: true, pending: null, stopped: false, url: "/user/ada/", last_activity: new Date(Date.now() - 240_000).toISOString() };
const users = [
  { name: "ada", admin: true, last_activity: model.last_activity, servers: { "": model, "course-2026": { ...model, url: "/user/ada/course-2026/" } } },
  { name: "bob", admin: false, last_activity: "2026-11-19T08:00:00Z", servers: { "": { ...model, ready: false, pending: "spawn" } } },
  { name: "grace.hopper@example.org", admin: false, last_activity: null, servers: {} },
];

async function answer(request, response) {
  const { pathname } = new URL(request.url, "http://localhost");
  const static_ = pathname.match(/^\/hub\/static\/(.*)/)?.[1];
  if (static_) {
    for (const folder of process.env.BUILT ? ["dist"] : ["src", "public", "dist"]) {
      const data = await readFile(join(web, folder, static_)).catch(() => undefined);
      if (data) return response.writeHead(200, { "content-type": types[extname(static_)] ?? "application/octet-stream" }).end(data);
    }
    return response.writeHead(404).end();
  }
  const stream = pathname.match(/\/(server|failing)\/progress$/)?.[1];
  if (stream) {
    response.writeHead(200, { "content-type": "text/event-stream" });
    for (const data of progress[stream]) response.write(event(data));
    return undefined; // left open, as the hub leaves it
  }
  if (pathname.startsWith("/hub/api/")) {
    const body =
      pathname === "/hub/api/users" ? users
      : pathname.endsWith("/tokens") ? { token: "5f0c2d7be1a94d6f8a3f4f8b0f0de712" }
      : { ...users[0], servers: { "": model, "course-2026": { ...model }, gpu: { ...model, ready: false, pending: "spawn" }, course: { ...model, ready: false, pending: "stop" } } };
    return response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(body));
  }
  const page = await readFile(join(directory, `${pathname.split("/").pop()}.html`)).catch(() => undefined);
  return page ? response.writeHead(200, { "content-type": "text/html" }).end(page) : response.writeHead(404).end("no such page");
}

const server = createServer((request, response) => answer(request, response).catch((error) => response.writeHead(500).end(String(error))));
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const origin = `http://127.0.0.1:${server.address().port}`;
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});

let problems = 0;
const pages = (await readdir(directory)).filter((name) => name.endsWith(".html")).map((name) => name.slice(0, -5));
for (const [kind, options] of Object.entries({
  light: { viewport: { width: 1200, height: 800 }, colorScheme: "light" },
  dark: { viewport: { width: 1200, height: 800 }, colorScheme: "dark" },
  phone: { viewport: { width: 390, height: 844 }, colorScheme: "light", deviceScaleFactor: 1.5, isMobile: true },
})) {
  const context = await browser.newContext({ ...options, reducedMotion: "reduce" });
  context.setDefaultTimeout(10_000);
  for (const name of pages) {
    if (only.length && !only.includes(name)) continue;
    const page = await context.newPage();
    const complain = (text) => {
      problems += 1;
      process.stderr.write(`${name} (${kind}): ${text}\n`);
    };
    page.on("console", (message) => message.type() === "error" && complain(message.text()));
    page.on("pageerror", (error) => complain(error.message));
    page.on("request", (request) => !request.url().startsWith(origin) && !request.url().startsWith("data:") && complain(`asks ${request.url()}`));
    // A page that keeps loading itself would never be done.
    let loads = 0;
    page.on("load", () => (loads += 1) > 3 && complain("loads itself again and again"));
    await page.goto(`${origin}/hub/${name}`, { waitUntil: "load" });
    await page.waitForFunction(() => window._jupyterhub_page_loaded);
    if (name === "token") {
      await page.fill("#token-note", "Nightly backup");
      await page.click("#request-token-form [type=submit]");
      await page.waitForSelector("#token-area:not([hidden])");
    }
    await page.waitForTimeout(250);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    if (wide > 0) complain(`is ${wide} pixels wider than the screen`);
    await page.screenshot({ path: join(directory, `${name}-${kind}.png`), fullPage: true });
    await page.close();
  }
  await context.close();
}
await browser.close();
server.closeAllConnections();
server.close();
process.exitCode = problems ? 1 : 0;
