#!/usr/bin/env bash
# Make .venv hold exactly what requirements.txt names, and this project. Safe to run again; `make` does when pins change.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "setup: $*" >&2; }

find_python() {
  local candidate
  for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  say "Python 3.11, 3.12 or 3.13 is needed, but python3 is $(python3 --version 2>&1): install one, or name it: PYTHON=/path/to/python3.12 make ..."
  exit 1
}

has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; }

# `===` takes the published build and no local one such as 2.13.0+cpu, which a folder of wheels or an extra index may
# offer and pip would otherwise prefer.
install_cuda_torch() {
  local version
  version=$(sed -n 's/^torch==//p' requirements.txt)
  say "an NVIDIA GPU is here: taking the CUDA build of PyTorch $version (several GB)"
  env -u PIP_FIND_LINKS -u PIP_EXTRA_INDEX_URL "${pip[@]}" install --constraint requirements.txt "torch===$version" "$@"
}

torch_has_cuda() { .venv/bin/python -c 'import sys, torch; sys.exit(torch.version.cuda is None)'; }

check_cuda_torch() {
  torch_has_cuda && return
  say "this build of PyTorch has no CUDA: installing it anew"
  install_cuda_torch --force-reinstall --no-deps
  install_cuda_torch # the CUDA libraries that the new build asks for
  torch_has_cuda && return
  say "There is an NVIDIA GPU, but the package index gives a PyTorch without CUDA: check pip's settings (pip config list) for an index or folder that replaces the default one, then run this again."
  exit 1
}

python=$(find_python)
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then # not only the file: a failed try may have left it there
  say "making .venv with $("$python" --version)"
  "$python" -m venv --clear .venv || { rm -rf .venv; say "python3 has no venv: install it (Debian, Ubuntu: apt install python3-venv)."; exit 1; }
fi
pip=(.venv/bin/python -m pip --disable-pip-version-check --no-input)

if has_gpu; then install_cuda_torch; fi
say "installing what requirements.txt names (PyTorch takes several GB, with or without a GPU)"
"${pip[@]}" install --quiet --requirement requirements.txt
if has_gpu; then check_cuda_torch; fi
"${pip[@]}" install --quiet --no-deps --no-build-isolation --editable .
touch .venv/.installed
say "done"
