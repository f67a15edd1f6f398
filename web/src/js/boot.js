// Runs before the page is drawn, so that the chosen colours never flash, and so that `window.jhdata`
// is there for sites' own inline scripts. A classic script on purpose.
(() => {
  const data = document.getElementById("jhdata");
  window.jhdata = data ? JSON.parse(data.textContent) : {};

  // Sites' own scripts may be written for JupyterHub's module loader; see compat.js.
  // No `import()`: this file must stay a classic script, which a bundler's help with that would undo.
  let compat;
  const load = () =>
    (compat ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.type = "module";
      script.src = `${window.jhdata.static_url}js/compat.js`;
      script.addEventListener("load", () => resolve(window.jhcompat));
      script.addEventListener("error", () => reject(new Error(`${script.src} cannot be loaded`)));
      document.head.append(script);
    }));
  window.require = Object.assign(
    (names, done, failed = (error) => console.error(error)) =>
      load()
        .then(({ provide }) => provide(names))
        .then((modules) => done?.(...modules))
        .catch(failed),
    { config: () => {} },
  );

  // JupyterHub's key, so that a person's choice outlives the change of hub.
  const KEY = "jupyterhub-bs-theme";
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const stored = () => {
    try {
      return window.localStorage.getItem(KEY);
    } catch {
      return null; // storage is blocked: follow the system
    }
  };
  const apply = () => {
    const choice = stored();
    const theme = choice === "light" || choice === "dark" ? choice : system.matches ? "dark" : "light";
    const root = document.documentElement;
    root.dataset.theme = theme;
    root.dataset.bsTheme = theme; // read by style sheets made for JupyterHub's own pages
    document.getElementById("dark-theme-toggle")?.setAttribute("aria-pressed", String(theme === "dark"));
  };
  apply();
  system.addEventListener("change", apply);
  window.addEventListener("storage", (event) => event.key === KEY && apply());

  document.addEventListener("DOMContentLoaded", () => {
    const toggle = document.getElementById("dark-theme-toggle");
    if (!toggle) return;
    toggle.hidden = false;
    apply();
    toggle.addEventListener("click", () => {
      const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
      try {
        window.localStorage.setItem(KEY, next);
        apply();
      } catch {
        document.documentElement.dataset.theme = next;
        document.documentElement.dataset.bsTheme = next;
      }
    });
  });
})();
