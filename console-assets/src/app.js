// Everything the console does in the browser. Each page is complete without it.
import "htmx.org";
import { watchCopying } from "./copy.js";
import { watchExamples } from "./examples.js";
import { watchKeys } from "./keys.js";
import { watchPolling } from "./polling.js";
import { watchProgress } from "./progress.js";
import { watchTheme } from "./theme.js";
import { watchUploads } from "./uploads.js";

document.documentElement.classList.add("js");
watchTheme();
watchExamples();
watchProgress();
watchPolling();
watchUploads();
watchCopying();
watchKeys();
