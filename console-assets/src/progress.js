// Shows that an answer is on its way: a skeleton after 150 ms, words and seconds after one second. What is
// asked for inside an answer (an explanation) leaves the answer itself on show.
import { announce } from "./announce.js";

const SKELETON_MS = 150;
const WORDS_MS = 1000;

let timers = [];

export function watchProgress() {
  const panel = document.getElementById("answer");
  if (!panel) return;
  document.addEventListener("htmx:before:request", (event) => start(panel, targetOf(event, panel)));
  document.addEventListener("htmx:finally:request", () => stop(panel));
  document.addEventListener("htmx:error", (event) => showOffline(targetOf(event, panel)));
  document.addEventListener("htmx:after:swap", (event) => {
    const target = targetOf(event, panel);
    announce(target.querySelector("[data-announce]")?.dataset.announce);
    bringIntoView(target);
  });
}

function targetOf(event, panel) {
  const target = event.detail?.ctx?.target;
  return target instanceof Element ? target : panel;
}

function start(panel, target) {
  stop(panel);
  const reply = panel.parentElement;
  const seconds = reply.querySelector("[data-elapsed]");
  const began = performance.now();
  timers = [
    setTimeout(() => {
      reply.classList.add("is-slow");
      announce(panel.dataset.working);
    }, WORDS_MS),
    setInterval(() => {
      seconds.textContent = `${Math.round((performance.now() - began) / 1000)} s`;
    }, WORDS_MS),
  ];
  if (target === panel) timers.push(setTimeout(() => reply.classList.add("is-loading"), SKELETON_MS));
  target.setAttribute("aria-busy", "true");
}

function stop(panel) {
  for (const timer of timers) clearTimeout(timer);
  timers = [];
  const reply = panel.parentElement;
  reply.classList.remove("is-loading", "is-slow");
  for (const busy of reply.querySelectorAll("[aria-busy]")) busy.removeAttribute("aria-busy");
  reply.querySelector("[data-elapsed]").textContent = "";
}

function showOffline(target) {
  const state = document.getElementById("offline-state");
  target.replaceChildren(state.content.cloneNode(true));
  announce(target.querySelector("h2")?.textContent);
}

// On a phone the answer lies under the form: the reader should not have to look for it.
function bringIntoView(target) {
  if (target.getBoundingClientRect().top > window.innerHeight * 0.75) {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    target.scrollIntoView({ block: "start", behavior: calm ? "auto" : "smooth" });
  }
}
