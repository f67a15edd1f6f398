// The story in a real browser: two people, each in a context of their own, at the same time. They are ada
// and bob unless ORRERY_PEOPLE names others, such as two real users of the system. With ORRERY_STORY=short
// it is the first one's working day alone.

import { failed, launch, origin, patience, require_, same, shoot, shots, signIn, step } from "./lib.mjs";
import { join } from "node:path";

const browser = await launch();
const [first, second] = (process.env.ORRERY_PEOPLE ?? "ada,bob").split(",");
const ada = await person(first);
if (process.env.ORRERY_STORY === "short") {
  await workingDay(ada);
  await browser.close();
  process.exit(failed() ? 1 : 0);
}
const bob = await person(second);

await Promise.all([workingDay(ada), workingDay(bob)]);
await borders();
await stopAndStart();
await namedServer();
await logOut();

await browser.close();
process.exit(failed() ? 1 : 0);

async function person(name) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
  const page = await context.newPage();
  page.setDefaultTimeout(patience);
  const frames = [];
  const sockets = [];
  page.on("websocket", (socket) => {
    const seen = { path: new URL(socket.url()).pathname, sent: 0, received: 0, closed: false, error: "" };
    sockets.push(seen);
    socket.on("framesent", () => (seen.sent += 1));
    socket.on("framereceived", () => (seen.received += 1));
    socket.on("close", () => (seen.closed = true));
    socket.on("socketerror", (error) => (seen.error = String(error)));
    if (socket.url().includes("/terminals/")) socket.on("framereceived", (frame) => frames.push(String(frame.payload)));
  });
  const errors = [];
  page.on("pageerror", (error) => {
    if (new URL(page.url()).pathname.startsWith("/hub/")) errors.push(`${page.url()}: ${error.message}`);
  });
  return { name, context, page, frames, sockets, errors };
}

async function workingDay({ name, page, frames, sockets, errors }) {
  const step = steps(page, sockets);
  await step(`${name}: a wrong password is answered with a sentence`, async () => {
    await page.goto(`${origin}/hub/login?next=%2Fhub%2Fhome`);
    await signIn(page, name, "wrong");
    await page.getByText("Invalid username or password").waitFor();
    same(await page.locator("#username_input").inputValue(), name, "the name in the form");
  });
  await step(`${name}: logs in and sees home`, async () => {
    await signIn(page, name);
    await page.waitForURL("**/hub/home");
    await page.getByText("Start My Server").waitFor();
    same(await page.locator("#stop").count(), 0, "stop buttons");
  });
  await step(`${name}: starts the server and watches the progress`, async () => {
    const seen = [];
    await page.locator("#start").click();
    await page.waitForURL(/\/hub\/spawn-pending\//);
    const bar = page.getByRole("progressbar");
    await bar.waitFor({ state: "attached" });
    await page.waitForFunction(() => Number(document.querySelector("[role=progressbar]")?.getAttribute("aria-valuenow") ?? 100) > 0, undefined, { polling: 50 });
    seen.push(await bar.getAttribute("aria-valuenow").catch(() => "100"));
    require_(Number(seen[0]) > 0, "the bar did not move");
  });
  await step(`${name}: JupyterLab opens by itself when ready`, async () => {
    await page.waitForURL(new RegExp(`/user/${name}/lab`), { timeout: patience });
    await page.locator(".jp-LauncherCard").first().waitFor();
  });
  if (process.env.ORRERY_PROTOCOL) {
    await step(`${name}: the lab came over ${process.env.ORRERY_PROTOCOL}`, async () => {
      const spoken = await page.evaluate(() => performance.getEntriesByType("navigation")[0].nextHopProtocol);
      same(spoken, process.env.ORRERY_PROTOCOL, "the protocol");
    });
  }
  await step(`${name}: a notebook cell prints 42`, async () => {
    await page.locator('.jp-LauncherCard[data-category="Notebook"]').first().click();
    // The page may give up its first kernel connection for another; a cell run in between goes nowhere.
    const live = () => sockets.some(({ path, received, closed }) => path.includes("/kernels/") && received > 0 && !closed);
    await until(live, "an answer of the kernel over its websocket");
    const cell = page.locator(".jp-Notebook .jp-CodeCell .cm-content").first();
    await cell.click();
    await page.keyboard.type("print(6 * 7)");
    await page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').first().waitFor({ state: "attached" });
    await page.keyboard.press("Shift+Enter");
    await page.locator(".jp-OutputArea-output", { hasText: /^\s*42\s*$/ }).first().waitFor();
  });
  await step(`${name}: a terminal answers`, async () => {
    await page.locator('[data-command="launcher:create"], .jp-ToolbarButton [title^="New Launcher"], button[title^="New Launcher"]').first().click();
    await page.locator('.jp-LauncherCard[data-category="Other"]', { hasText: "Terminal" }).last().click();
    const terminal = page.locator(".jp-Terminal").first();
    await terminal.waitFor();
    await until(() => frames.some((frame) => frame.includes("stdout")), "the prompt");
    await terminal.click();
    await page.keyboard.type("echo answer-$((40+2))\n");
    await until(() => frames.join("").includes("answer-42"), "the answer");
    await page.screenshot({ path: join(shots, `lab-${name}.png`) });
  });
  await step(`${name}: no script of the hub's pages failed`, async () => same(errors, [], "page errors"));
}

/** Steps that leave a picture and the state of the websockets when they fail. */
function steps(page, sockets) {
  return (name, body) =>
    step(name, async () => {
      try {
        return await body();
      } catch (error) {
        await page.screenshot({ path: join(shots, `failed-${name.replace(/\W+/g, "-")}.png`) }).catch(() => {});
        error.stack = `${error.stack}\nwebsockets: ${JSON.stringify(sockets)}`;
        throw error;
      }
    });
}

async function borders() {
  await step("bob gets 403 on ada's server", async () => {
    const answer = await bob.page.goto(`${origin}/user/${ada.name}/lab`);
    same(answer.status(), 403, "status");
    await shoot(bob.page, "story-403");
  });
}

async function stopAndStart() {
  const { page } = ada;
  await step("ada stops the server from home", async () => {
    await home(page);
    await shoot(page, "story-home-running");
    await page.locator("#stop").click();
    await page.locator("#stop").waitFor({ state: "hidden" });
    await page.getByText("Start My Server").waitFor();
  });
  await step("the stopped server's page offers to start it", async () => {
    const answer = await page.goto(`${origin}/user/${ada.name}/lab`);
    same(answer.status(), 424, "status");
    require_((await page.locator(`a[href*="/hub/spawn/${ada.name}"]`).count()) > 0, "no link to start it");
  });
  await step("ada starts it again from home, and the notebook is still there", async () => {
    await home(page);
    await page.locator("#start").click();
    await page.waitForURL(`**/user/${ada.name}/lab**`);
    await page.locator(".jp-DirListing-item", { hasText: "Untitled.ipynb" }).waitFor();
  });
}

async function namedServer() {
  const { page } = ada;
  await step("ada adds a named server on home and starts it", async () => {
    await home(page);
    await page.locator(".new-server-name").fill("second");
    await page.locator(".new-server-btn").click();
    await page.locator("#start-second").click();
    await page.waitForURL(`**/user/${ada.name}/second/lab**`);
    await page.locator(".jp-LauncherCard, .jp-DirListing-item").first().waitFor();
  });
  await step("ada stops the named server and deletes it", async () => {
    await home(page);
    const row = page.locator('[data-server-name="second"]');
    await row.waitFor();
    await shoot(page, "story-home-named");
    await page.locator("#stop-second").click();
    await page.locator("#delete-second").waitFor({ state: "visible" });
    page.once("dialog", (dialog) => dialog.accept());
    await page.locator("#delete-second").click();
    // Upstream asks by the browser's own window.confirm, Orrery by a dialog of the page.
    const dialog = page.locator("dialog[open]");
    if (await dialog.isVisible()) await dialog.locator('button[value="delete"]').click();
    await row.waitFor({ state: "detached" });
    await home(page);
    same(await row.count(), 0, "rows after a reload");
  });
}

async function logOut() {
  const { page, context } = ada;
  const before = await context.cookies(`${origin}/user/${ada.name}/lab`);
  await step("ada logs out", async () => {
    await home(page);
    await page.locator("#logout").click();
    await page.waitForURL(/\/hub\/login/);
    await page.locator("#username_input").waitFor();
  });
  await step("the server asks the logged-out browser to log in", async () => {
    await page.goto(`${origin}/user/${ada.name}/lab`);
    same(new URL(page.url()).pathname, "/hub/login", "where it led");
  });
  await step("the server refuses the old cookie", async () => {
    const kept = before.filter((cookie) => cookie.name === `jupyterhub-user-${ada.name}`);
    same(kept.length, 1, "cookies kept");
    const thief = await browser.newContext();
    await thief.addCookies(kept);
    const answer = await thief.request.get(`${origin}/user/${ada.name}/api/status`);
    same(answer.status(), 403, "status of the server's API");
    const window = await thief.newPage();
    await window.goto(`${origin}/user/${ada.name}/lab`);
    same(new URL(window.url()).pathname, "/hub/login", "where it led");
    await thief.close();
  });
}

/** Open home and wait until its scripts, which may load one after the other, have taken hold of the buttons. */
async function home(page) {
  await page.goto(`${origin}/hub/home`, { waitUntil: "networkidle" });
}

async function until(condition, what) {
  const deadline = Date.now() + patience;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`${what} did not come`);
    await new Promise((done) => setTimeout(done, 50));
  }
}
