// The hub's REST API, as the pages use it.

const data = window.jhdata ?? {};

export class HubError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Calls the API; answers the decoded JSON, or null when there is none. Throws a HubError. */
export async function api(method, path, body) {
  let response;
  try {
    response = await fetch(data.base_url + "api/" + path, {
      method,
      credentials: "same-origin",
      cache: "no-store",
      signal: AbortSignal.timeout(60_000),
      headers: {
        Accept: "application/json",
        "X-XSRFToken": data.xsrf_token,
        ...(body === undefined ? {} : { "Content-Type": "application/json" }),
      },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    throw new HubError(0, error.name === "TimeoutError" ? "The hub did not answer in a minute." : "The hub cannot be reached.");
  }
  const text = await response.text();
  let json = null;
  try {
    json = text ? JSON.parse(text) : null;
  } catch {
    // Not JSON: an error page of something between us and the hub. The status says enough.
  }
  if (!response.ok) throw new HubError(response.status, json?.message ?? `The hub answered ${response.status} ${response.statusText}.`);
  return json;
}

export const userPath = (user) => `users/${encodeURIComponent(user)}`;

/** The API path of one server; "" is the default server. */
export const serverPath = (user, server) =>
  server ? `${userPath(user)}/servers/${encodeURIComponent(server)}` : `${userPath(user)}/server`;

/** Shows an error in the page's own dialog. */
export function showError(error) {
  const dialog = document.getElementById("error-dialog");
  const box = dialog?.querySelector(".ajax-error");
  if (!box) {
    window.alert(error.message);
    return;
  }
  box.textContent = error.message;
  if (!dialog.open) dialog.showModal();
}

/** Runs `work` with `button` disabled, and shows what goes wrong. */
export async function busy(button, work) {
  button.disabled = true;
  button.setAttribute("aria-busy", "true");
  try {
    return await work();
  } catch (error) {
    showError(error);
    return undefined;
  } finally {
    button.disabled = false;
    button.removeAttribute("aria-busy");
  }
}

/** Opens a dialog with a form of method "dialog"; answers the value of the button pressed. */
export function ask(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true }));
}
