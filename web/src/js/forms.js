// A form that was sent shows it, and is not sent twice.

export function sendOnce(form, label) {
  if (!form) return;
  const button = form.querySelector("[type=submit]");
  const set = (sending) => {
    button.disabled = sending;
    button.toggleAttribute("aria-busy", sending);
    if (button instanceof HTMLInputElement) button.value = sending ? label : button.defaultValue;
  };
  form.addEventListener("submit", (event) => {
    // After the browser has collected the fields: a disabled button would not be among them.
    window.setTimeout(() => !event.defaultPrevented && set(true));
  });
  // Back from the history, the form works again.
  window.addEventListener("pageshow", () => set(false));
}
