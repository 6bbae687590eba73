import { announce } from "./announce.js";

const SHOWN_MS = 1600;

export function watchCopying() {
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const candidates = button.closest("[data-copy-scope]")?.querySelectorAll(button.dataset.copy) ?? [];
    // Of several blocks of code only the one on show is meant.
    const source = [...candidates].find((element) => element.checkVisibility());
    if (!source) return;
    await write(source.textContent);
    const label = button.querySelector("[data-copy-label]") ?? button;
    const before = label.textContent;
    if (before !== button.dataset.copied) {
      label.textContent = button.dataset.copied;
      setTimeout(() => {
        label.textContent = before;
      }, SHOWN_MS);
    }
    announce(button.dataset.copied);
  });
}

async function write(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Pages on plain http away from localhost have no clipboard interface.
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "sr-only";
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}
