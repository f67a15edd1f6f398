import { api, serverPath } from "./hub.js";
import { about } from "./times.js";

const page = document.getElementById("spawn-pending");
const { user, server, progressUrl } = page.dataset;
const element = (id) => document.getElementById(id);
const bar = element("progress-bar");
const message = element("progress-message");
const steps = element("progress-log");
const log = element("server-log");
const status = element("stop-server-status");
const cancel = element("stop-server-btn");

const CAUSES = {
  command: "the program to start is missing or may not be run",
  image: "its image cannot be had",
  quota: "a quota or limit",
  out_of_memory: "out of memory",
  exited: "it ended by itself",
  unreachable: "it runs, but cannot be reached",
  timeout: "it took too long",
  cancelled: "cancelled",
  options: "its options were refused",
  spawner: "the spawner failed",
  internal: "the hub failed",
};

let over = false;
let lastStep = "";
const events = new EventSource(progressUrl);

events.addEventListener("message", (received) => {
  let event;
  try {
    event = JSON.parse(received.data);
  } catch {
    return; // a keep-alive, or not for us
  }
  status.textContent = "";
  if (typeof event.progress === "number") showProgress(event.progress);
  // The last event repeats the end of the log.
  if (event.failed && event.log) log.textContent = "";
  if (event.log?.length) addLog(event.log);
  // An event that carries log lines repeats the last of them as its message.
  if (!event.log?.length || event.failed) {
    showQueue(event.queue);
    showMessage(event);
  }
  if (event.ready) finish(event);
  else if (event.failed) fail(event);
});

events.addEventListener("error", () => {
  if (over) return;
  if (events.readyState === EventSource.CLOSED) {
    // The hub refuses the stream: the server is up, gone, or we are signed out. The page itself knows.
    over = true;
    window.setTimeout(() => window.location.reload(), 1000);
  } else {
    status.textContent = "The connection broke. Trying again…";
  }
});

function showProgress(value) {
  const percent = Math.max(0, Math.min(100, Math.round(value)));
  bar.style.width = `${percent}%`;
  bar.setAttribute("aria-valuenow", String(percent));
  element("sr-progress").textContent = `${percent}%`;
  element("ring-progress").style.strokeDashoffset = String(100 - percent);
  element("ring-text").textContent = `${percent}%`;
}

function showMessage(event) {
  // html_message comes from the hub and its spawner, which the hub's operator chose: it may carry markup.
  const text = event.html_message ?? event.message;
  if (!text) return;
  const write = (target) => (event.html_message ? (target.innerHTML = text) : (target.textContent = text));
  write(message);
  if (text === lastStep) return;
  lastStep = text;
  const step = document.createElement("li");
  step.className = "progress-log-event";
  write(step);
  steps.append(step);
}

function showQueue(queue) {
  const place = element("queue-place");
  place.classList.toggle("hidden", !queue);
  if (!queue) return;
  const ahead = queue.position - 1;
  place.textContent =
    (ahead <= 0 ? "You are next." : ahead === 1 ? "One start is before yours." : `${ahead} starts are before yours.`) +
    (queue.eta_seconds ? ` Your turn comes in ${about(queue.eta_seconds)}.` : "");
}

function addLog(lines) {
  element("log-details").classList.remove("hidden");
  const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
  log.textContent = `${log.textContent}${lines.join("\n")}\n`.slice(-100_000);
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function finish(event) {
  over = true;
  events.close();
  cancel.disabled = true;
  page.classList.add("is-ready");
  // This page knows where the person wanted to go (?next=), and redirects there once the server is ready.
  if (window.location.pathname.includes("/spawn-pending/")) window.location.reload();
  else window.location.assign(event.url ?? window.location.href);
}

function fail(event) {
  over = true;
  events.close();
  page.classList.add("is-failed");
  bar.classList.add("bg-danger");
  message.textContent = "";
  showQueue(undefined);
  const heading = page.querySelector("h1");
  const title = "Start failed";
  document.title = document.title.replace(/^Starting/, title);
  if (heading) heading.textContent = title;
  page.querySelector("#pending-title .muted")?.remove();
  const text = element("failure-message");
  if (event.html_message) text.innerHTML = event.html_message;
  else text.textContent = event.message ?? "";
  const facts = element("failure-facts");
  for (const [name, value] of [
    ["Cause", CAUSES[event.cause] ?? event.cause],
    ["Exit code", event.exit_code],
  ]) {
    if (value === undefined || value === null) continue;
    const term = document.createElement("dt");
    const detail = document.createElement("dd");
    term.textContent = name;
    detail.textContent = String(value);
    facts.append(term, detail);
  }
  if (log.textContent) element("log-details").open = true;
  else element("progress-details").open = true;
  log.scrollTop = log.scrollHeight;
  const box = element("spawn-failure");
  box.classList.remove("hidden");
  cancel.classList.add("hidden");
  element("try-again").classList.remove("hidden");
  element("go-home").classList.remove("hidden");
  box.focus();
}

cancel.addEventListener("click", async () => {
  cancel.disabled = true;
  status.textContent = "Cancelling…";
  try {
    await api("DELETE", serverPath(user, server));
    over = true;
    events.close();
    window.location.assign(`${window.jhdata.base_url}home`);
  } catch (error) {
    status.textContent = error.message;
    cancel.disabled = false;
  }
});
