// Bundles src/ into the folder given as the first argument: hashed file names and a manifest.json that
// maps each source name to its built name. Called by hatch_build.py and by `npm run build`.
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const out = resolve(here, process.argv[2] ?? "../src/tremplin/console/static");
const stamp = process.argv[3] ?? "";

// Old hashed files would pile up in the package.
mkdirSync(out, { recursive: true });
for (const name of readdirSync(out)) rmSync(join(out, name), { recursive: true });

const result = await build({
  absWorkingDir: here,
  entryPoints: ["src/app.js", "src/app.css"],
  entryNames: "[name]-[hash]",
  outdir: out,
  bundle: true,
  minify: true,
  format: "esm",
  // light-dark(), :has() and native nesting: every browser since the spring of 2024.
  target: ["chrome123", "firefox121", "safari17.5"],
  legalComments: "none",
  metafile: true,
  logLevel: "warning",
});

const files = {};
for (const [path, output] of Object.entries(result.metafile.outputs)) {
  if (output.entryPoint) files[basename(output.entryPoint)] = basename(path);
}
const icon = readFileSync(join(here, "src/icon.svg"));
const digest = createHash("sha256").update(icon).digest("hex").slice(0, 8).toUpperCase();
files["icon.svg"] = `icon-${digest}.svg`;
writeFileSync(join(out, files["icon.svg"]), icon);
writeFileSync(join(out, "manifest.json"), `${JSON.stringify({ inputs: stamp, files }, null, 1)}\n`);
