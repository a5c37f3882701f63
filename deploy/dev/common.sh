# shellcheck shell=bash
# What every script here shares: where things are, how progress is told, how one waits.
# Sourced; the script that does so has set -euo pipefail.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
DEV=$(realpath -m -- "${LOK_DEV_DIR:-$ROOT/.dev}")
PID_DIR=$DEV/run
LOG_DIR=$DEV/log
HOST=127.0.0.1
PORT_VARIABLES=${LOK_DEV_PORT_VARIABLES:-LOK_DEV} # how the variables are called by whoever runs stack.sh for somebody

umask 022

say() {
    printf '%s\n' "$*"
}

# Ends the script: what is wrong, where, and how to mend it.
fail() {
    if [[ -n ${STEP_STARTED:-} ]]; then
        printf 'failed\n'
    fi
    printf 'error: %s\n' "$*" >&2
    exit 1
}

show_log_end() {
    printf '\n--- the last lines of %s\n' "$LOG_DIR/$1.log" >&2
    tail -n 20 "$LOG_DIR/$1.log" >&2 || true
    printf -- '---\n' >&2
}

# `step TEXT; work; step_done WORD` makes one line: "TEXT … WORD (1.2 s)".
step() {
    printf '%s … ' "$*"
    STEP_STARTED=$(now_ms)
}

step_done() {
    local ms=$(($(now_ms) - STEP_STARTED))
    STEP_STARTED=
    printf '%s (%d.%d s)\n' "$*" $((ms / 1000)) $((ms % 1000 / 100))
}

now_ms() {
    local micros=${EPOCHREALTIME//[!0-9]/} # the decimal mark depends on the locale
    printf '%s' $((micros / 1000))
}

# wait_until SECONDS COMMAND…: false when the command was still false at the deadline.
wait_until() {
    local deadline=$(($(now_ms) + $1 * 1000))
    shift
    until "$@"; do
        (($(now_ms) < deadline)) || return 1
        sleep 0.05
    done
}

# Whether somebody listens on 127.0.0.1:PORT.
port_open() {
    (exec 3<>"/dev/tcp/$HOST/$1") 2>/dev/null
}

# require_port_free PORT VARIABLE WHAT: ends the script, naming the variable that moves WHAT, when the port is taken.
require_port_free() {
    if port_open "$1"; then
        fail "port $1, meant for $3, is taken by another process (\`ss -ltnp 'sport = :$1'\` shows which)." \
            "Stop that process, or choose another port with the environment variable ${2/#LOK_DEV/$PORT_VARIABLES}."
    fi
}

# alone NAME: ends the script when another `make NAME` runs in this checkout. Descriptor 8 holds the lock: close it
# (8>&-) in what is started, which may outlive this script.
alone() {
    mkdir -p "$ROOT/.dev"
    exec 8>"$ROOT/.dev/$1.lock"
    flock -n 8 || fail "another \`make $1\` runs in this checkout; wait for it to end."
}

# The servers that `stack.sh servers` has written down in FILE become LOK_TEST_…, and nothing else that the caller's
# environment says reaches the services: whoever starts them tells them everything.
use_servers() { # FILE
    local name value
    while IFS='=' read -r name value; do
        case $name in LOK_TEST_*) export "$name=$value" ;; esac
    done <"$1"
    forget_settings
}

forget_settings() {
    local name
    for name in $(compgen -v LOK__) LOK_CONFIG; do unset "$name"; done
}

is_root() {
    [[ $(id -u) == 0 ]]
}

# secret NAME COMMAND…: the value kept under NAME; the command makes it the first time.
secret() {
    local name=$1 line
    shift
    if ! line=$(grep -m 1 "^$name=" "$DEV/secrets" 2>/dev/null); then
        line=$name=$("$@")
        (umask 077 && printf '%s\n' "$line" >>"$DEV/secrets")
    fi
    printf '%s' "${line#*=}"
}

random_hex() { # BYTES
    od -An -N "$1" -tx1 -v /dev/urandom | tr -d ' \n'
}

# write_private FILE: standard input, readable by nobody else, there whole or not at all.
write_private() {
    (umask 077 && cat >"$1.new")
    mv -f "$1.new" "$1"
}

# One change of the stack at a time; held until the script ends.
lock_stack() {
    mkdir -p "$PID_DIR" "$LOG_DIR"
    exec 9>"$DEV/lock"
    flock -w 900 9 || fail "another command has been changing this stack for 15 minutes;" \
        "\`fuser $DEV/lock\` shows which."
}
