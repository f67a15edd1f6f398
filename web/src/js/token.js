import { api, busy, userPath } from "./hub.js";
import { relativeTimes } from "./times.js";

const { user } = window.jhdata;
const field = (id) => document.getElementById(id);
const form = field("request-token-form");
const area = field("token-area");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  await busy(form.querySelector("[type=submit]"), async () => {
    const scopes = field("token-scopes").value.split(/[\s,]+/).filter(Boolean);
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

const copy = field("copy-token");
if (!navigator.clipboard) copy.hidden = true;
copy.addEventListener("click", async () => {
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

relativeTimes();
