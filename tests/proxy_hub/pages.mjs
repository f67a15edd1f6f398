// The pages that the proxy itself shows, in every look: readable, and no wider than a phone.

import { fileURLToPath } from "node:url";
import { dirname, join } from "node:path";
import { failed, launch, origin, require_, same, shoot, step } from "../browser/lib.mjs";

const folder = join(dirname(fileURLToPath(import.meta.url)), "../../crates/proxy/src/pages");
const browser = await launch();
const page = await browser.newPage();

await look("404", `${origin}/nothing/here`, 404, "Not found");
await look("503", `${origin}/user/ada/lab`, 503, "Not answering");
// Its statuses are those of broken requests, which no browser sends.
await look("error", `file://${folder}/error.html`, undefined, "Something went wrong");

await browser.close();
process.exit(failed() ? 1 : 0);

async function look(name, url, status, words) {
  await step(`pages: ${name} says what happened, and fits`, async () => {
    const answer = await page.goto(url);
    if (status) same(answer.status(), status, "status");
    await page.getByRole("heading", { name: words }).waitFor();
    same(await page.locator("html").getAttribute("lang"), "en", "the language");
    const overflow = await shoot(page, name);
    require_(overflow <= 0, `${overflow} pixels wider than a phone`);
    for (const scheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme: scheme });
      const ratio = await page.evaluate(contrast);
      require_(ratio >= 4.5, `text in ${scheme} has a contrast of ${ratio.toFixed(1)}`);
    }
  });
}

/** The least contrast of text on the page (WCAG 2.2, 1.4.3), with opacity taken into account. */
function contrast() {
  // The browser's own ground is another one in the dark, which only an element of the page knows.
  document.body.style.backgroundColor = "Canvas";
  const ground = getComputedStyle(document.body).backgroundColor;
  document.body.style.removeProperty("background-color");
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (parts) => {
    const [r, g, b] = parts.map((part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const seen = (element) => {
    const given = rgb(getComputedStyle(element).backgroundColor);
    if (given[3] > 0) return given;
    return element.parentElement ? seen(element.parentElement) : rgb(ground);
  };
  const ratios = [...document.querySelectorAll("h1, p, a")].map((element) => {
    const style = getComputedStyle(element);
    const under = seen(element);
    const opacity = Number(style.opacity);
    const over = rgb(style.color).slice(0, 3).map((part, index) => part * opacity + under[index] * (1 - opacity));
    const [high, low] = [luminance(over), luminance(under.slice(0, 3))].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  });
  return Math.min(...ratios);
}
