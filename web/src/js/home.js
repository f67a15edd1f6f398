import { api, ask, busy, serverPath, userPath } from "./hub.js";
import { relativeTimes, timeElement } from "./times.js";

const { user, base_url: base } = window.jhdata;
const start = document.getElementById("start");
const stop = document.querySelector(".stop-main");
const announce = document.getElementById("home-status");
const LABELS = { ready: "Running", stopped: "Stopped", starting: "Starting", stopping: "Stopping", busy: "Checking" };
const spawnUrl = (server) => `${base}spawn/${encodeURIComponent(user)}${server ? `/${encodeURIComponent(server)}` : ""}`;

function stateOf(model) {
  if (!model) return "stopped";
  if (model.pending) return { spawn: "starting", stop: "stopping" }[model.pending] ?? "busy";
  return model.ready ? "ready" : "stopped";
}

/** Writes one server's state into its row; says it aloud when it changed. */
function show(row, state, model) {
  const mark = row.querySelector(".state");
  if (mark && mark.dataset.state !== state) {
    mark.dataset.state = state;
    mark.textContent = LABELS[state];
    mark.className = `state${state === "ready" ? " state-ready" : state === "stopped" ? "" : " state-busy"}`;
    const name = row.querySelector("th, h2").textContent.trim();
    announce.textContent = `${name}: ${LABELS[state]}`;
  }
  const active = state !== "stopped";
  const hide = (selector, hidden) => row.querySelector(selector)?.classList.toggle("hidden", hidden);
  if (row.dataset.serverName === "") {
    stop.classList.toggle("hidden", !active || state === "stopping");
    start.textContent = active ? "My Server" : "Start My Server";
    start.href = active ? (model?.url ?? start.href) : spawnUrl("");
  } else {
    hide(".stop-server", !active || state === "stopping");
    hide(".start-server", active);
    hide(".delete-server", active);
    hide(".server-link", state !== "ready");
    hide(".server-link-off", state === "ready");
  }
  if (model?.last_activity) row.querySelector(".time-col")?.replaceChildren(timeElement(model.last_activity));
}

const rows = () => document.querySelectorAll("[data-server-name]");
let timer;

/** Keeps the page true: often while something is on its way, seldom otherwise, never in a hidden tab. */
async function refresh() {
  window.clearTimeout(timer);
  if (document.hidden) return;
  let pending = false;
  try {
    const { servers = {} } = await api("GET", userPath(user));
    for (const row of rows()) {
      const model = servers[row.dataset.serverName];
      const state = stateOf(model);
      pending ||= state !== "ready" && state !== "stopped";
      show(row, state, model);
    }
  } catch (error) {
    if (error.status === 401 || error.status === 403) return; // signed out elsewhere: leave the page as it is
  }
  timer = window.setTimeout(refresh, pending ? 1500 : 15_000);
}

const rowOf = (button) => button.closest("[data-server-name]");

async function stopServer(button) {
  const row = rowOf(button);
  await busy(button, async () => {
    await api("DELETE", serverPath(user, row.dataset.serverName));
    show(row, "stopping");
  });
  await refresh();
}

stop?.addEventListener("click", () => stopServer(stop));
for (const button of document.querySelectorAll(".stop-server")) button.addEventListener("click", () => stopServer(button));

const dialog = document.getElementById("delete-dialog");
for (const button of document.querySelectorAll(".delete-server")) {
  button.addEventListener("click", async () => {
    const row = rowOf(button);
    dialog.querySelector(".delete-name").textContent = row.querySelector("th").textContent.trim();
    if ((await ask(dialog)) !== "delete") return;
    await busy(button, async () => {
      await api("DELETE", serverPath(user, row.dataset.serverName), { remove: true });
      announce.textContent = `${row.querySelector("th").textContent.trim()} is deleted`;
      row.remove();
      document.getElementById("new-server-name").focus();
    });
  });
}

// A name for people becomes a name for addresses by the rule the hub itself uses:
// lower-case letters, digits and single hyphens, a letter first, at most 30 characters.
export function displayName(text) {
  return text.normalize("NFC").replace(/[^\p{L}\p{M}\p{N}\p{P}\p{S} ]+/gu, "").replace(/ {2,}/g, " ").trim();
}
export function slug(name) {
  let safe = name.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
  safe = safe.replace(/[^a-z0-9]+/g, "-").replace(/^-+/, "");
  if (!/^[a-z]/.test(safe)) safe = `x-${safe}`;
  return safe.slice(0, 30).replace(/-+$/, "");
}

const form = document.getElementById("new-server-form");
form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const shown = displayName(form.querySelector(".new-server-name").value);
  if (!shown) return;
  await busy(form.querySelector(".new-server-btn"), async () => {
    await api("PUT", serverPath(user, slug(shown)), { display_name: shown });
    window.location.reload();
  });
});

relativeTimes();
document.addEventListener("visibilitychange", refresh);
refresh();
