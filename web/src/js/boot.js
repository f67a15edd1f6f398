// Runs before the page is drawn, so that the chosen colours never flash, and so that `window.jhdata`
// is there for sites' own inline scripts. A classic script on purpose.
(() => {
  const data = document.getElementById("jhdata");
  window.jhdata = data ? JSON.parse(data.textContent) : {};

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
