import { sendOnce } from "./forms.js";

if (!window.isSecureContext) document.getElementById("insecure-login-warning")?.classList.remove("hidden");

const toggle = document.getElementById("toggle_password_visibility");
const password = document.getElementById("password_input");
if (toggle && password) {
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    const show = password.type === "password";
    password.type = show ? "text" : "password";
    toggle.setAttribute("aria-pressed", String(show));
    toggle.firstChild.textContent = show ? "Hide" : "Show";
    password.focus();
  });
  // A password manager should see a password when the form is sent.
  password.form?.addEventListener("submit", () => (password.type = "password"));
}

sendOnce(document.getElementById("login-form"), "Signing in…");
