#!/usr/bin/env bash
# Make sure that there is a Chromium for the browser tests and the screenshots; prints its path. Installs Debian's where it
# may (root or passwordless sudo), else Playwright's own.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "chromium: $*" >&2; }

find_chromium() {
  local candidate
  for candidate in "${CHROMIUM:-}" chromium chromium-browser google-chrome google-chrome-stable; do
    if [ -n "$candidate" ] && command -v "$candidate"; then return; fi
  done
  .venv/bin/python -c 'import pathlib, playwright.sync_api as p
with p.sync_playwright() as one: path = pathlib.Path(one.chromium.executable_path)
print(path) if path.exists() else exit(1)'
}

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }

if ! find_chromium; then
  say "none found: installing one"
  if command -v apt-get >/dev/null && as_root true 2>/dev/null; then
    as_root apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive as_root apt-get install -y -qq --no-install-recommends chromium >&2
  else
    .venv/bin/playwright install chromium >&2 || true
  fi
  find_chromium || { say "there is none, and none can be installed here: the browser tests will be skipped; install Chromium (Debian, Ubuntu: sudo apt install chromium), or name one: CHROMIUM=/path/to/chrome make test"; exit 1; }
fi
