// What the browser story and the gallery share: Chromium, named steps, screenshots.

import { mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

// The packages may stand in a cache outside the checkout, where an import would not look.
const { chromium } = createRequire(join(required("ORRERY_NODE_MODULES"), "/"))("playwright-core");

export const origin = required("ORRERY_ORIGIN");
export const password = required("ORRERY_PASSWORD");
export const shots = required("ORRERY_SHOTS");
export const patience = 60_000;

function required(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set; start this through tests/browser/run.py`);
  return value;
}

/** ORRERY_TRUST names the one certificate that Chromium accepts without an authority: the SHA-256 of its key. */
export async function launch() {
  const trust = process.env.ORRERY_TRUST ? [`--ignore-certificate-errors-spki-list=${process.env.ORRERY_TRUST}`] : [];
  return chromium.launch({
    executablePath: process.env.ORRERY_CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", ...trust],
  });
}

let failures = 0;

/** Run one named step; the line it prints is counted by run.py. A failure is printed and the story goes on. */
export async function step(name, body) {
  const begun = Date.now();
  const seconds = () => ((Date.now() - begun) / 1000).toFixed(2);
  try {
    const value = await body();
    console.log(`PASS  ${name}  (${seconds()} s)`);
    return value;
  } catch (error) {
    failures += 1;
    console.log(`FAIL  ${name}  (${seconds()} s)`);
    console.log("      " + String(error.stack ?? error).split("\n").slice(0, 24).join("\n      "));
    return undefined;
  }
}

export function failed() {
  return failures > 0;
}

export function same(got, expected, what) {
  if (JSON.stringify(got) !== JSON.stringify(expected)) {
    throw new Error(`${what}: expected ${JSON.stringify(expected)}, got ${JSON.stringify(got)}`);
  }
}

export function require_(condition, message) {
  if (!condition) throw new Error(message);
}

const looks = [
  { name: "light", colorScheme: "light", width: 1280, height: 800 },
  { name: "dark", colorScheme: "dark", width: 1280, height: 800 },
  { name: "phone", colorScheme: "light", width: 390, height: 844 },
  { name: "phone-dark", colorScheme: "dark", width: 390, height: 844 },
];

/** Screenshots of the page as it stands, in every look; says how far it is wider than a phone. */
export async function shoot(page, name) {
  mkdirSync(shots, { recursive: true });
  let overflow = 0;
  for (const look of looks) {
    await page.setViewportSize({ width: look.width, height: look.height });
    await page.emulateMedia({ colorScheme: look.colorScheme, reducedMotion: "reduce" });
    await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
    await page.screenshot({ path: join(shots, `${name}-${look.name}.png`), timeout: 20_000 });
    if (look.name === "phone") {
      overflow = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
    }
  }
  await page.setViewportSize({ width: 1280, height: 800 });
  await page.emulateMedia({ colorScheme: "light" });
  return overflow;
}

/** Fill in the login form and send it. */
export async function signIn(page, name, secret = password) {
  await page.locator("#username_input").fill(name);
  await page.locator("#password_input").fill(secret);
  await page.locator("#login_submit").click();
}
