// Screenshots of every hub page, light, dark and at phone width.

import { failed, launch, origin, require_, same, shoot, signIn, step } from "./lib.mjs";

const browser = await launch();
// Upstream's pages are shown for comparison; only ours must fit a phone and tell why a server ended.
const ours = process.env.ORRERY_KIND === "orrery";

await scene("login", null, (page) => page.goto(`${origin}/hub/login`));
await scene("login-refused", null, async (page) => {
  await page.goto(`${origin}/hub/login`);
  await signIn(page, "ada", "wrong");
  await page.getByText("Invalid username or password").waitFor();
});
await scene("not-found", null, async (page) => same((await page.goto(`${origin}/hub/nothing`)).status(), 404, "status"));
await scene("home", "ada", (page) => page.goto(`${origin}/hub/home`));
await scene("spawn-form", "ada", async (page) => {
  await page.goto(`${origin}/hub/spawn`);
  await page.locator("#size").waitFor();
});
await scene("not-running", "ada", async (page) => same((await page.goto(`${origin}/user/ada/lab`)).status(), 424, "status"));
await scene("token", "ada", (page) => page.goto(`${origin}/hub/token`));
await scene("token-made", "ada", async (page) => {
  await page.goto(`${origin}/hub/token`, { waitUntil: "networkidle" });
  await page.locator("#token-note").fill("for the gallery");
  await page.locator('#request-token-form button[type="submit"]').click();
  await page.locator("#token-result").waitFor();
  require_(/^[0-9A-Za-z_-]{20,}$/.test((await page.locator("#token-result").textContent()).trim()), "no token shown");
});
await scene("tokens-listed", "ada", async (page) => {
  await page.goto(`${origin}/hub/token`);
  await page.getByText("for the gallery").first().waitFor();
});
if (ours) {
  await scene("token-choices", "ada", async (page) => {
    await page.goto(`${origin}/hub/token`, { waitUntil: "networkidle" });
    await page.locator("#token-scope-choices summary").click();
    const choice = (scope) => page.locator(`#token-scope-choices input[value="${scope}"]`);
    await choice("read:users!user=ada").check();
    await choice("servers!user=ada").check();
    same(await page.locator("#token-scopes").inputValue(), "read:users!user=ada servers!user=ada", "what is written");
    await page.locator("#token-scopes").fill("servers!user=ada");
    same(await choice("read:users!user=ada").isChecked(), false, "the box of a scope that was deleted");
    await page.locator("#token-note").fill("limited");
    await page.locator('#request-token-form button[type="submit"]').click();
    await page.locator("#token-result").waitFor();
  });
  await scene("sessions", "twice", async (page) => {
    const elsewhere = await browser.newContext({ userAgent: "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Version/18.0 Safari/604.1" });
    const phone = await elsewhere.newPage();
    const here = async () => page.locator(".session-row").count();
    const signed = async () => {
      await phone.goto(`${origin}/hub/login?next=%2Fhub%2Fhome`);
      await signIn(phone, "twice");
      await phone.waitForURL("**/hub/home");
      await page.goto(`${origin}/hub/token`, { waitUntil: "networkidle" });
      same(await here(), 2, "sessions");
    };
    await signed();
    await page.locator(".session-row", { hasText: "Safari on iPhone" }).locator(".end-session-btn").click();
    await page.waitForFunction(() => document.querySelectorAll(".session-row").length === 1);
    await phone.goto(`${origin}/hub/home`);
    await phone.waitForURL(/\/hub\/login/);
    await signed();
    await Promise.all([page.waitForEvent("load"), page.locator("#end-sessions").click()]);
    await page.waitForFunction(() => document.querySelectorAll(".session-row").length === 1);
    await phone.goto(`${origin}/hub/home`);
    await phone.waitForURL(/\/hub\/login/);
    // The cookies are new, and forms work with them.
    await page.locator("#token-note").fill("after the others");
    await page.locator('#request-token-form button[type="submit"]').click();
    await page.locator("#token-result").waitFor();
    await signed();
    await elsewhere.close();
    await page.locator("#sessions-section").scrollIntoViewIfNeeded();
  });
  await scene("tokens-of", "grace", async (page) => {
    await page.goto(`${origin}/hub/admin`, { waitUntil: "networkidle" });
    await page.locator('.user-row[data-user="ada"]').first().getByRole("link", { name: "Tokens" }).click();
    await page.waitForURL("**/hub/token/ada");
    await page.waitForLoadState("networkidle");
    const row = page.locator(".token-row", { hasText: "limited" });
    await row.locator(".revoke-token-btn").click();
    await row.waitFor({ state: "detached" });
  });
}
await scene("forbidden", "ada", async (page) => same((await page.goto(`${origin}/hub/admin`)).status(), 403, "status"));
await scene("oauth-confirm", "ada", async (page) => {
  const redirect = encodeURIComponent("/services/reports/oauth_callback");
  const answer = await page.goto(`${origin}/hub/api/oauth2/authorize?client_id=service-reports&redirect_uri=${redirect}&response_type=code&state=gallery`);
  same(answer.status(), 200, "status");
  await page.locator('form button[type="submit"].btn-jupyter').waitFor();
});
await scene("spawn-pending", "slow", async (page) => {
  await start(page);
  await page.waitForURL(/spawn-pending/);
  await page.getByRole("progressbar").waitFor({ state: "attached" });
});
await scene("spawn-failed", "fails", async (page) => {
  await start(page);
  await page.waitForFunction(() => /failed/i.test(document.body?.innerText ?? ""), undefined, { timeout: 30_000 });
  if (ours) {
    // What JupyterHub leaves in its own log: why it ended, in the server's words.
    await page.waitForFunction(() => /No space left on device/.test(document.body?.innerText ?? ""), undefined, { timeout: 5_000 });
    require_(/\b3\b/.test(await page.evaluate(() => document.body.innerText)), "no exit code on the page");
  }
});
await scene("home-running", "quick", async (page) => {
  await start(page);
  await page.waitForURL(/\/user\/quick\//, { timeout: 30_000 });
  await page.goto(`${origin}/hub/home`);
  await page.locator("#stop").waitFor();
});
await scene("stop-pending", "stubborn", async (page) => {
  await start(page);
  await page.waitForURL(/\/user\/stubborn\//, { timeout: 30_000 });
  await page.goto(`${origin}/hub/home`, { waitUntil: "networkidle" });
  await page.locator("#stop").click();
  await page.waitForTimeout(500);
  await page.goto(`${origin}/hub/spawn-pending/stubborn`);
  await page.getByText(/stop/i).first().waitFor();
});
await scene("admin", "grace", async (page) => same((await page.goto(`${origin}/hub/admin`)).status(), 200, "status"));

if (ours) {
  await scene("audit", "grace", async (page) => {
    await page.goto(`${origin}/hub/audit`);
    await page.locator("#audit-action").selectOption("token.create");
    await Promise.all([page.waitForURL(/action=token\.create/), page.locator("#audit-filter button").first().click()]);
    await page.locator("#audit-table").getByText("ada").first().waitFor();
    await page.goto(`${origin}/hub/audit`);
  });
  await scene("accesses", "quick", async (page) => {
    const admins = await browser.newContext();
    const admin = await admins.newPage();
    await admin.goto(`${origin}/hub/login?next=%2Fhub%2Fhome`);
    await signIn(admin, "grace");
    await admin.waitForURL("**/hub/home");
    const stopped = await admin.evaluate(async () => {
      const xsrf = document.cookie.match(/_xsrf=([^;]+)/)[1];
      return (await fetch("/hub/api/users/quick/server", { method: "DELETE", headers: { "X-XSRFToken": xsrf } })).status;
    });
    require_(stopped === 204 || stopped === 202, `stopping answered ${stopped}`);
    await admins.close();
    await page.goto(`${origin}/hub/home`);
    await page.locator('a[href$="/hub/accesses"]').first().click();
    await page.waitForURL("**/hub/accesses");
    await page.locator("#audit-table").getByText("grace").first().waitFor();
  });
}

await browser.close();
process.exit(failed() ? 1 : 0);

/** One page: a context of its own, somebody logged in or nobody, then the screenshots. */
async function scene(name, user, reach, { optional = false } = {}) {
  if (optional) return;
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  await step(`gallery: ${name}`, async () => {
    if (user) {
      await page.goto(`${origin}/hub/login?next=%2Fhub%2Fhome`);
      await signIn(page, user);
      await page.waitForURL("**/hub/home");
    }
    await reach(page);
    const overflow = await shoot(page, name);
    if (ours) require_(overflow <= 0, `${overflow} px wider than a phone`);
  });
  await context.close();
}

async function start(page) {
  await page.goto(`${origin}/hub/spawn`);
  await page.locator('form input[type="submit"], form button[type="submit"]').first().click();
}
