// Times as people say them.

const relative = new Intl.RelativeTimeFormat(document.documentElement.lang || "en", { numeric: "auto" });
const STEPS = [
  [60, "second", 1],
  [3600, "minute", 60],
  [86_400, "hour", 3600],
  [604_800, "day", 86_400],
  [2_629_800, "week", 604_800],
  [31_557_600, "month", 2_629_800],
  [Infinity, "year", 31_557_600],
];

export function ago(date, now = Date.now()) {
  const seconds = (date.getTime() - now) / 1000;
  if (Math.abs(seconds) < 5) return "just now";
  const [, unit, size] = STEPS.find(([limit]) => Math.abs(seconds) < limit);
  return relative.format(Math.round(seconds / size), unit);
}

/** "about 2 minutes" */
export function about(seconds) {
  if (seconds < 50) return `about ${Math.max(5, Math.ceil(seconds / 5) * 5)} seconds`;
  const minutes = Math.round(seconds / 60);
  return minutes <= 1 ? "about a minute" : `about ${minutes} minutes`;
}

/** A <time> element for an ISO stamp; the hub leaves the zone out, and means UTC. */
export function timeElement(stamp) {
  const element = document.createElement("time");
  element.dateTime = /[Zz]|[+-]\d\d:?\d\d$/.test(stamp) ? stamp : `${stamp}Z`;
  refresh(element);
  return element;
}

function refresh(element) {
  const date = new Date(element.dateTime);
  if (Number.isNaN(date.getTime())) return;
  element.textContent = ago(date);
  element.title = date.toLocaleString();
}

/** Turns every <time datetime> below `root` into words, and keeps them true. */
export function relativeTimes(root = document) {
  const all = () => root.querySelectorAll("time[datetime]").forEach(refresh);
  all();
  window.setInterval(all, 30_000);
}
