import { api, userPath } from "./hub.js";

const { user, server } = document.getElementById("stop-pending").dataset;

// Asks until the server is gone, then shows what comes next. Waits longer each time, up to five seconds.
async function watch(wait) {
  await new Promise((resolve) => window.setTimeout(resolve, wait));
  try {
    const model = await api("GET", userPath(user));
    if (model.servers?.[server]?.pending !== "stop") {
      document.getElementById("stop-status").textContent = "Stopped.";
      window.location.reload();
      return;
    }
  } catch (error) {
    if (error.status === 401 || error.status === 403) {
      window.location.reload();
      return;
    }
  }
  watch(Math.min(wait * 1.5, 5000));
}
watch(500);
