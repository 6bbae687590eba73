// Everything the console does in the browser. Each page is complete without it.
import "htmx.org";
import { watchCopying } from "./copy.js";
import { watchExamples } from "./examples.js";
import { watchKeys } from "./keys.js";
import { watchProgress } from "./progress.js";
import { watchTheme } from "./theme.js";

document.documentElement.classList.add("js");
watchTheme();
watchExamples();
watchProgress();
watchCopying();
watchKeys();
