#!/usr/bin/env bash
# What receivers in the guide's languages need, in .dev/tools: node/ (npm packages of tools/package-lock.json) and
# python/ (a virtual environment with tools/requirements.txt); PHP needs no packages. Idempotent.
#
#   tools.sh [node | python]...     both when none is named
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

python_tools() {
    local dir=$TOOLS/python
    if is_current "$dir" "$PINS/requirements.txt"; then return; fi
    step "installing Python packages into $dir"
    rm -rf "$dir"
    {
        python3 -m venv "$dir" &&
            "$dir/bin/pip" install --disable-pip-version-check -q --no-deps -r "$PINS/requirements.txt"
    } >"$LOG_DIR/pip.log" 2>&1 || {
        show_log_end pip
        fail "making the Python environment failed; its output is above."
    }
    sum "$PINS/requirements.txt" >"$dir/.made-from"
    step_done installed
}

LOG_DIR=$ROOT/.dev/log
mkdir -p "$LOG_DIR" "$TOOLS"
exec 9>"$TOOLS/lock"
flock -w 900 9 || fail "another command has been installing into $TOOLS for 15 minutes."
need_receiver_tools
install_missing
if (($# == 0)); then set -- node python; fi
for kind in "$@"; do
    case $kind in
    node | python) "${kind}_tools" ;;
    *) fail "tools.sh knows node and python, not \"$kind\"." ;;
    esac
done
