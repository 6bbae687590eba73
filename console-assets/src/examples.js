// An example fills the form and asks at once; without script it is a link that does the same.
export function watchExamples() {
  document.addEventListener("click", (event) => {
    const link = event.target.closest("[data-example]");
    if (!link || event.metaKey || event.ctrlKey || event.shiftKey) return;
    const form = document.getElementById("ask");
    event.preventDefault();
    for (const [name, value] of Object.entries(JSON.parse(link.dataset.example))) {
      const field = form.elements.namedItem(name);
      if (field) field.value = value;
    }
    for (const other of document.querySelectorAll("[data-example]")) other.removeAttribute("aria-current");
    link.setAttribute("aria-current", "true");
    form.requestSubmit();
  });

  // Once the text is the reader's own, no example is current any more.
  document.getElementById("ask")?.addEventListener("input", () => {
    document.querySelector("[data-example][aria-current]")?.removeAttribute("aria-current");
  });
}
