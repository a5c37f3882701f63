# shellcheck shell=bash
# What the checks need, in .dev/tools, each from its lock file. Sourced after deploy/dev/common.sh.

CHECK=$ROOT/deploy/check
LOG_DIR=$ROOT/.dev/log
# shellcheck disable=SC2034 # used by the scripts that source this
PYTHON=$ROOT/.dev/tools/check/bin/python
NODE_DIR=$ROOT/.dev/tools/check-node

# shellcheck source=deploy/dev/install.sh
. "$ROOT/deploy/dev/install.sh"

# One command at a time installs; the lock ends with the process.
lock_tools() {
    mkdir -p "$ROOT/.dev/tools" "$LOG_DIR"
    exec 8>"$ROOT/.dev/tools/check.lock"
    flock -w 900 8 || fail "another command has been installing into .dev/tools for 15 minutes."
}

# fresh FOLDER LOCK-FILE: whether the folder was made from it, completely.
fresh() {
    [[ -f $1/.made-from ]] && cmp -s "$1/.made-from" "$2"
}

python_tools() {
    local dir=$ROOT/.dev/tools/check pins=$CHECK/requirements.txt
    lock_tools
    if ! fresh "$dir" "$pins"; then
        need python3 python3
        python3 -c 'import ensurepip, venv' 2>/dev/null || PACKAGES+=(python3-venv)
        install_missing
        step "installing Python packages into .dev/tools/check"
        rm -rf "$dir"
        {
            python3 -m venv "$dir" &&
                "$dir/bin/pip" install --disable-pip-version-check -q --no-deps -r "$pins"
        } >"$LOG_DIR/check-pip.log" 2>&1 || {
            show_log_end check-pip
            fail "making the Python environment failed; its output is above."
        }
        cp "$pins" "$dir/.made-from"
        step_done installed
    fi
    flock -u 8
}

node_tools() {
    local lock=$CHECK/asyncapi/package-lock.json
    lock_tools
    if ! fresh "$NODE_DIR" "$lock"; then
        need node nodejs
        need npm npm
        install_missing
        step "installing npm packages into .dev/tools/check-node"
        rm -rf "$NODE_DIR"
        mkdir -p "$NODE_DIR"
        cp "$CHECK/asyncapi/package.json" "$lock" "$NODE_DIR/"
        (cd "$NODE_DIR" && npm ci --ignore-scripts --no-audit --no-fund) >"$LOG_DIR/check-npm.log" 2>&1 || {
            show_log_end check-npm
            fail "npm ci failed; its output is above."
        }
        cp "$lock" "$NODE_DIR/.made-from"
        step_done installed
    fi
    flock -u 8
}
