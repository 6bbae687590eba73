// `/` goes to the input, `?` lists the keys, Ctrl+Enter asks. Single keys can be turned off (WCAG 2.1.4).
const OFF = "tremplin.single-keys-off";

export function watchKeys() {
  const dialog = document.getElementById("keys");
  const choice = document.getElementById("single-keys");
  if (choice) {
    choice.checked = !stored();
    choice.addEventListener("change", () => store(!choice.checked));
  }
  for (const opener of document.querySelectorAll("[data-open-keys]")) {
    opener.addEventListener("click", () => dialog?.showModal());
  }
  // A click on the backdrop lands on the dialog itself.
  dialog?.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.target.closest?.("form")?.requestSubmit();
      return;
    }
    if (stored() || event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
    if (event.key === "/") {
      const input = document.querySelector("[data-primary-input]");
      if (!input) return;
      event.preventDefault();
      input.focus();
      input.select?.();
    } else if (event.key === "?") {
      event.preventDefault();
      if (!dialog?.open) dialog?.showModal();
    }
  });
}

function isTyping(element) {
  return Boolean(element.closest?.("input:not([type=radio], [type=checkbox]), textarea, select, dialog"));
}

// Storage can be refused (private windows); the keys then stay on.
function stored() {
  try {
    return localStorage.getItem(OFF) === "1";
  } catch {
    return false;
  }
}

function store(off) {
  try {
    if (off) localStorage.setItem(OFF, "1");
    else localStorage.removeItem(OFF);
  } catch {
    // Nothing to do: the choice holds for this page only.
  }
}
