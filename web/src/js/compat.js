// What scripts in sites' own templates find on JupyterHub's pages: `require(["jquery", "jhapi"], …)`.
// Loaded only when a page asks for it; our own pages never do.

import { showError } from "./hub.js";

const data = window.jhdata;

/** The modules by these names, as AMD's `require` gives them. */
function provide(names) {
  return Promise.all(
    names.map((name) => {
      const module = MODULES[name];
      if (!module) throw new Error(`"${name}" is not a module that these pages offer`);
      return module();
    }),
  );
}

const ours = () => undefined; // our pages load their own
const MODULES = {
  jquery: () => (window.jQuery ? window.jQuery : script("components/jquery/dist/jquery.min.js").then(() => window.jQuery)),
  jhapi: () => JHAPI,
  utils: () => utils,
  home: ours,
  token: ours,
  not_running: ours,
};

let loading;
function script(path) {
  loading ??= new Promise((resolve, reject) => {
    const element = document.createElement("script");
    element.src = data.static_url + path;
    element.addEventListener("load", resolve);
    element.addEventListener("error", () => reject(new Error(`${element.src} cannot be loaded`)));
    document.head.append(element);
  });
  return loading;
}

const utils = {
  url_path_join: (...parts) => parts.join("/").replace(/\/\/+/g, "/"),
  encode_uri_components: (path) => path.split("/").map(encodeURIComponent).join("/"),
  ajax_error_msg: (request) => request.responseJSON?.message ?? request.statusText,
  ajax_error_dialog: (request) => showError(new Error(utils.ajax_error_msg(request))),
};

/** JupyterHub's own little client: calls `success(reply)` or `error(request, status, text)`. */
class JHAPI {
  constructor(base_url) {
    this.base_url = base_url;
    this.xsrf_token = data.xsrf_token;
  }

  async api_request(path, { type = "GET", data: body, success, error = utils.ajax_error_dialog } = {}) {
    const response = await fetch(`${this.base_url}api/${utils.encode_uri_components(path)}`, {
      method: type,
      credentials: "same-origin",
      cache: "no-store",
      headers: { "Content-Type": "application/json", "X-XSRFToken": this.xsrf_token },
      body,
    }).catch((failure) => ({ ok: false, status: 0, statusText: failure.message, text: async () => "" }));
    const text = await response.text();
    let reply;
    try {
      reply = JSON.parse(text);
    } catch {
      reply = undefined;
    }
    if (response.ok) success?.(reply);
    else error({ status: response.status, statusText: response.statusText, responseText: text, responseJSON: reply }, "error", response.statusText);
  }

  #call(type, path, options = {}, body) {
    return this.api_request(path, { ...options, type, data: options.data ?? (body && JSON.stringify(body)) });
  }

  start_server(user, options) {
    return this.#call("POST", `users/${user}/server`, options);
  }
  stop_server(user, options) {
    return this.#call("DELETE", `users/${user}/server`, options);
  }
  start_named_server(user, server, options) {
    return this.#call("POST", `users/${user}/servers/${server}`, options);
  }
  create_named_server(user, server, options) {
    return this.#call("PUT", `users/${user}/servers/${server}`, options);
  }
  stop_named_server(user, server, options) {
    return this.#call("DELETE", `users/${user}/servers/${server}`, options);
  }
  delete_named_server(user, server, options) {
    return this.#call("DELETE", `users/${user}/servers/${server}`, options, { remove: true });
  }
  list_users(options) {
    return this.#call("GET", "users", options);
  }
  get_user(user, options) {
    return this.#call("GET", `users/${user}`, options);
  }
  add_users(usernames, userinfo, options) {
    return this.#call("POST", "users", options, { ...userinfo, usernames });
  }
  edit_user(user, userinfo, options) {
    return this.#call("PATCH", `users/${user}`, options, userinfo);
  }
  delete_user(user, options) {
    return this.#call("DELETE", `users/${user}`, options);
  }
  request_token(user, props, options) {
    return this.#call("POST", `users/${user}/tokens`, options, props);
  }
  revoke_token(user, token, options) {
    return this.#call("DELETE", `users/${user}/tokens/${token}`, options);
  }
  shutdown_hub(props, options) {
    return this.#call("POST", "shutdown", options, props);
  }
}

window.jhcompat = { provide };
