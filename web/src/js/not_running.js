// The part after # never reaches the hub, so the start button carries it on.

const start = document.getElementById("start");
if (start && window.location.hash) start.href += window.location.hash;

const seconds = Number(document.getElementById("not-running")?.dataset.spawnAfter);
if (seconds > 0 && start) window.setTimeout(() => window.location.assign(start.href), seconds * 1000);
