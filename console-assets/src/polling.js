// A page that asks again by itself says when nobody answers. The next answer hides the note: it comes hidden.
import { announce } from "./announce.js";

export function watchPolling() {
  document.addEventListener("htmx:error", (event) => {
    const note = event.target.querySelector?.(".polled-lost");
    if (!note?.hidden) return;
    note.hidden = false;
    announce(note.textContent);
  });
}
