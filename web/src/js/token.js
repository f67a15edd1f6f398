import { api, busy, userPath } from "./hub.js";
import { relativeTimes } from "./times.js";

const field = (id) => document.getElementById(id);
// A site's own template may have neither the element nor the form.
const user = field("tokens")?.dataset.user || window.jhdata.user;
const form = field("request-token-form");
const area = field("token-area");
const words = (text) => text.split(/[\s,]+/).filter(Boolean);

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  await busy(form.querySelector("[type=submit]"), async () => {
    const scopes = words(field("token-scopes").value);
    const reply = await api("POST", `${userPath(user)}/tokens`, {
      note: field("token-note").value || "Requested on the token page",
      expires_in: Number.parseInt(field("token-expiration-seconds").value, 10) || null,
      ...(scopes.length ? { scopes } : {}),
    });
    field("token-result").textContent = reply.token;
    area.hidden = false;
    area.style.removeProperty("display");
    area.focus();
  });
});

const choices = [...document.querySelectorAll("#token-scope-choices input")];
for (const choice of choices) {
  choice.addEventListener("change", () => {
    const others = words(field("token-scopes").value).filter((scope) => scope !== choice.value);
    field("token-scopes").value = (choice.checked ? [...others, choice.value] : others).join(" ");
  });
}
const tick = () => {
  const written = words(field("token-scopes").value);
  for (const choice of choices) choice.checked = written.includes(choice.value);
};
if (choices.length) {
  field("token-scopes").addEventListener("input", tick);
  tick(); // browsers keep what was typed when a page is loaded again
}

const copy = field("copy-token");
if (copy && !navigator.clipboard) copy.hidden = true;
copy?.addEventListener("click", async () => {
  await navigator.clipboard.writeText(field("token-result").textContent);
  copy.textContent = "Copied";
  window.setTimeout(() => (copy.textContent = "Copy"), 2000);
});

for (const button of document.querySelectorAll(".revoke-token-btn")) {
  button.addEventListener("click", () =>
    busy(button, async () => {
      const row = button.closest(".token-row");
      await api("DELETE", `${userPath(user)}/tokens/${encodeURIComponent(row.dataset.tokenId)}`);
      row.remove();
    }),
  );
}

for (const button of document.querySelectorAll(".end-session-btn")) {
  button.addEventListener("click", () =>
    busy(button, async () => {
      const row = button.closest(".session-row");
      await api("DELETE", `${userPath(user)}/sessions/${encodeURIComponent(row.dataset.sessionId)}`);
      row.remove();
    }),
  );
}

const everywhere = field("end-sessions");
everywhere?.addEventListener("click", () =>
  busy(everywhere, async () => {
    const except = everywhere.dataset.except;
    await api("DELETE", `${userPath(user)}/sessions${except ? `?except=${except}` : ""}`);
    window.location.reload(); // this browser has new cookies, and with them another XSRF token
  }),
);

relativeTimes();
