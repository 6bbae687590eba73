// Shows that an answer is on its way: a skeleton after 150 ms, words and seconds after one second.
import { announce } from "./announce.js";

const SKELETON_MS = 150;
const WORDS_MS = 1000;

let timers = [];

export function watchProgress() {
  const panel = document.getElementById("answer");
  if (!panel) return;
  document.addEventListener("htmx:before:request", () => start(panel));
  document.addEventListener("htmx:finally:request", () => stop(panel));
  document.addEventListener("htmx:error", () => showOffline(panel));
  document.addEventListener("htmx:after:swap", () => {
    announce(panel.querySelector("[data-announce]")?.dataset.announce);
    bringIntoView(panel);
  });
}

function start(panel) {
  stop(panel);
  const began = performance.now();
  const seconds = panel.parentElement.querySelector("[data-elapsed]");
  timers = [
    setTimeout(() => panel.parentElement.classList.add("is-loading"), SKELETON_MS),
    setTimeout(() => {
      panel.parentElement.classList.add("is-slow");
      announce(panel.dataset.working);
    }, WORDS_MS),
    setInterval(() => {
      const elapsed = Math.round((performance.now() - began) / 1000);
      if (seconds) seconds.textContent = `${elapsed} s`;
    }, WORDS_MS),
  ];
  panel.setAttribute("aria-busy", "true");
}

function stop(panel) {
  for (const timer of timers) clearTimeout(timer);
  timers = [];
  panel.parentElement.classList.remove("is-loading", "is-slow");
  panel.removeAttribute("aria-busy");
}

function showOffline(panel) {
  const state = document.getElementById("offline-state");
  if (!state) return;
  panel.replaceChildren(state.content.cloneNode(true));
  announce(panel.querySelector("h2")?.textContent);
}

// On a phone the answer lies under the form: the reader should not have to look for it.
function bringIntoView(panel) {
  const top = panel.getBoundingClientRect().top;
  if (top > window.innerHeight * 0.75) {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    panel.scrollIntoView({ block: "start", behavior: calm ? "auto" : "smooth" });
  }
}
