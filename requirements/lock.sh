#!/usr/bin/env sh
# Writes the lock files: every version pinned, every file hashed, no address inside.
# Releases younger than seven days stay out, so that a hijacked one is found before it is taken.
set -eu
cd "$(dirname "$0")/.."
cutoff=$(date -u -d '7 days ago' +%Y-%m-%dT00:00:00Z 2>/dev/null || date -u -v-7d +%Y-%m-%dT00:00:00Z)
command="make lock"
compile() {
  uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --quiet \
    --exclude-newer "$cutoff" --custom-compile-command "$command" "$@"
}
compile -o requirements/serve.txt
# torch is a step of its own: its CPU, CUDA and macOS builds differ. The override removes it and what it pulls in.
compile --override requirements/without-torch.txt -c requirements/serve.txt \
  --extra optimize -o requirements/optimize.txt
compile --override requirements/without-torch.txt -c requirements/optimize.txt \
  --extra optimize --extra dev -o requirements/dev.txt
