// Screen readers hear finished sentences, one at a time, from the single live region of the page.
export function announce(sentence) {
  const region = document.getElementById("live");
  if (!region || !sentence) return;
  region.textContent = "";
  // A change in the same task can be missed: the region must be seen empty first.
  setTimeout(() => {
    region.textContent = sentence;
  }, 50);
}
