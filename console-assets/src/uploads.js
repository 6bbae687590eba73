// Says before sending that files are larger than the server takes: it would cut the connection instead.
export function watchUploads() {
  const form = document.querySelector("form[data-max-bytes]");
  form?.addEventListener("change", (event) => {
    const inputs = [...form.querySelectorAll("input[type=file]")];
    const bytes = inputs.flatMap((input) => [...input.files]).reduce((sum, file) => sum + file.size, 0);
    const isTooLarge = bytes > Number(form.dataset.maxBytes);
    for (const input of inputs) input.setCustomValidity(isTooLarge && input.files.length ? form.dataset.tooLarge : "");
    if (isTooLarge && inputs.includes(event.target)) event.target.reportValidity();
  });
}
