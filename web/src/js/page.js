// What every page does.

// A menu closes when the focus or a click goes elsewhere, and on Escape.
for (const menu of document.querySelectorAll("details.dropdown")) {
  document.addEventListener("click", (event) => {
    if (!menu.contains(event.target)) menu.open = false;
  });
  menu.addEventListener("focusout", (event) => {
    if (event.relatedTarget && !menu.contains(event.relatedTarget)) menu.open = false;
  });
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !menu.open) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
}

// Links that look like buttons answer to the space bar, as buttons do.
document.addEventListener("keydown", (event) => {
  if (event.key === " " && event.target instanceof HTMLAnchorElement && event.target.getAttribute("role") === "button") {
    event.preventDefault();
    event.target.click();
  }
});

// Marks the page one is on.
for (const link of document.querySelectorAll(".navbar-links a.nav-link")) {
  if (new URL(link.href).pathname === window.location.pathname) link.setAttribute("aria-current", "page");
}

// Tests wait for this.
window._jupyterhub_page_loaded = true;
