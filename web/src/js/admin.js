import { api, ask, busy, serverPath, userPath } from "./hub.js";
import { relativeTimes, timeElement } from "./times.js";

const { base_url: base, user: me } = window.jhdata;
const element = (id) => document.getElementById(id);
const limit = Number(element("admin").dataset.pageLimit) || 50;
const body = element("admin-rows");
const status = element("admin-status");
let offset = 0;
let asked = 0;

function make(tag, properties = {}, ...children) {
  const { dataset, ...rest } = properties;
  const made = Object.assign(document.createElement(tag), rest);
  Object.assign(made.dataset, dataset);
  made.append(...children);
  return made;
}

async function load() {
  const mine = ++asked; // a slow answer must not overwrite a later one
  const query = new URLSearchParams({ offset, limit, include_stopped_servers: "1" });
  if (element("admin-filter").value) query.set("name_filter", element("admin-filter").value);
  if (element("admin-state").value) query.set("state", element("admin-state").value);
  status.textContent = "Loading…";
  try {
    const users = await api("GET", `users?${query}`);
    if (mine !== asked) return;
    body.replaceChildren(...users.flatMap(userRows));
    status.textContent = users.length ? "" : "Nobody matches.";
    element("admin-place").textContent = users.length ? `${offset + 1} to ${offset + users.length}` : "";
    element("admin-previous").disabled = offset === 0;
    element("admin-next").disabled = users.length < limit;
  } catch (error) {
    if (mine === asked) status.textContent = error.message;
  }
}

function userRows(user) {
  const servers = { "": undefined, ...user.servers };
  return Object.entries(servers).map(([name, model], index) => serverRow(user, name, model, index === 0));
}

function serverRow(user, name, model, first) {
  const state = !model || model.stopped ? "stopped" : model.pending ? "busy" : model.ready ? "ready" : "stopped";
  const labels = { stopped: "Stopped", ready: "Running", busy: { spawn: "Starting", stop: "Stopping" }[model?.pending] ?? "Checking" };
  const last = (first ? (model?.last_activity ?? user.last_activity) : model?.last_activity) ?? null;
  const actions = make("td", { className: "actions" });
  const act = (label, kind, work) => {
    const button = make("button", { type: "button", className: `btn btn-sm ${kind}`, textContent: label });
    button.append(make("span", { className: "visually-hidden", textContent: ` ${user.name}${name ? ` ${name}` : ""}` }));
    button.addEventListener("click", () => busy(button, work));
    actions.append(button);
  };
  if (state === "ready") actions.append(make("a", { className: "btn btn-sm btn-quiet", href: model.url, textContent: "Open" }));
  if (state === "stopped") {
    // The spawn page rather than the API: it knows the spawner's options.
    actions.append(
      make("a", {
        className: "btn btn-sm btn-quiet",
        href: `${base}spawn/${encodeURIComponent(user.name)}${name ? `/${encodeURIComponent(name)}` : ""}`,
        textContent: "Start",
      }),
    );
  } else {
    act("Stop", "btn-danger", async () => {
      await api("DELETE", serverPath(user.name, name));
      await load();
    });
  }
  if (first) {
    actions.append(
      make("a", { className: "btn btn-sm btn-quiet", href: `${base}token/${encodeURIComponent(user.name)}` }, "Tokens", make("span", { className: "visually-hidden", textContent: ` and logins of ${user.name}` })),
    );
    const admin = Boolean(user.admin);
    act(admin ? "Make ordinary" : "Make admin", "btn-quiet", async () => {
      if (!(await confirm(`${admin ? "Take admin rights from" : "Give admin rights to"} ${user.name}?`, "", admin ? "Take them" : "Give them"))) return;
      await api("PATCH", userPath(user.name), { admin: !admin });
      await load();
    });
    if (user.name !== me) {
      act("Delete", "btn-quiet", async () => {
        if (!(await confirm(`Delete ${user.name}?`, "Their servers are stopped, their tokens revoked. Files are not touched by the hub.", "Delete user"))) return;
        await api("DELETE", userPath(user.name));
        await load();
      });
    }
  }
  const who = make("th", { scope: "row" }, first ? user.name : make("span", { className: "repeated-name", textContent: user.name }));
  if (first && user.admin) who.append(" ", make("span", { className: "badge", textContent: "admin" }));
  const row = make(
    "tr",
    { className: first ? "user-row" : "user-row user-row-more", dataset: { user: user.name, serverName: name } },
    who,
    make("td", { dataset: { label: "Server" } }, name ? model?.display_name || name : make("span", { className: "muted", textContent: "My Server" })),
    make("td", { dataset: { label: "State" } }, make("span", { className: `state${state === "stopped" ? "" : ` state-${state}`}`, textContent: labels[state] })),
    make("td", { dataset: { label: "Last active" } }, last ? timeElement(last) : "never"),
    actions,
  );
  return row;
}

async function confirm(title, text, yes) {
  element("admin-confirm-title").textContent = title;
  element("admin-confirm-text").textContent = text;
  element("admin-confirm-yes").textContent = yes;
  return (await ask(element("admin-confirm"))) === "yes";
}

let typing;
element("admin-filter").addEventListener("input", () => {
  window.clearTimeout(typing);
  typing = window.setTimeout(() => {
    offset = 0;
    load();
  }, 250);
});
element("admin-search").addEventListener("submit", (event) => event.preventDefault());
element("admin-state").addEventListener("change", () => {
  offset = 0;
  load();
});
element("admin-previous").addEventListener("click", () => {
  offset = Math.max(0, offset - limit);
  load();
});
element("admin-next").addEventListener("click", () => {
  offset += limit;
  load();
});
element("add-users").addEventListener("click", async () => {
  if ((await ask(element("add-users-dialog"))) !== "add") return;
  const usernames = element("add-users-names").value.split(/[\s,]+/).filter(Boolean);
  if (!usernames.length) return;
  await busy(element("add-users"), async () => {
    await api("POST", "users", { usernames, admin: element("add-users-admin").checked });
    element("add-users-names").value = "";
    await load();
  });
});

relativeTimes(body);
load();
