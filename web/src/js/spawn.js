import { sendOnce } from "./forms.js";

sendOnce(document.getElementById("spawn_form"), "Starting…");
