// A redirect loop ends on an error page. Without its counter in the address, a reload starts afresh.

const address = new URL(window.location.href);
if (address.searchParams.has("redirects")) {
  address.searchParams.delete("redirects");
  window.history.replaceState({}, "", address);
}
