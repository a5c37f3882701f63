#!/usr/bin/env bash
# One server of a test's own: `private-server.sh postgres|rabbitmq` starts it, empty, in a temporary folder and on free
# loopback ports, and obeys its standard input, one command a line:
#
#   start | stop | kill | pause | resume | wipe
#
# Each is answered on standard output with one line, `ok` or `failed`; the first line there, when it is ready, is
# `ready DIRECTORY URL`. `kill` and `pause` hit the server and its children; `wipe` removes the data of a RabbitMQ that
# does not run. At the end of the input, however its writer ended, server and folder are removed.
set -euo pipefail

KIND=${1:-}
[[ $KIND == postgres || $KIND == rabbitmq ]] || {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2
    exit 2
}

FOLDERS=${TMPDIR:-/tmp}/lokroom-server
LOK_DEV_DIR=$(mktemp -d "$FOLDERS.XXXXXXXX")
chmod 711 "$LOK_DEV_DIR" # user postgres must get through

here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=deploy/dev/common.sh
. "$here/common.sh"
# shellcheck source=deploy/dev/process.sh
. "$here/process.sh"
# shellcheck source=deploy/dev/postgres.sh
. "$here/postgres.sh"
# shellcheck source=deploy/dev/rabbitmq.sh
. "$here/rabbitmq.sh"

mkdir -p "$PID_DIR" "$LOG_DIR"
exec 3>&1 4>&2 >>"$LOG_DIR/private-server.log" 2>&1
# Held as long as this process lives, see sweep; nobody finds it before it is held.
exec 9>"$DEV/alive.new"
flock 9
mv "$DEV/alive.new" "$DEV/alive"

# Below the ports that Linux gives to whoever asks for any: nobody else comes by one of them by chance.
choose_ports() {
    local tries port
    for ((tries = 0; tries < 100; tries++)); do
        port=$((10000 + RANDOM % 20000))
        if ! port_open $port && ! port_open $((port + 1000)) && ! port_open $((port + 2000)); then
            POSTGRES_PORT=$port AMQP_PORT=$port
            return
        fi
    done
    fail "no free ports"
}

# The children as well: PostgreSQL's work on without their parent.
signal_tree() { # SIGNAL
    local pid children
    pid=$(pid_of "$KIND") || fail "$KIND does not run"
    read -r children <"/proc/$pid/task/$pid/children" || true
    kill -"$1" "$pid"
    # shellcheck disable=SC2086 # several words; one may have ended by now
    if [[ -n ${children:-} ]]; then kill -"$1" $children || true; fi
}

start() {
    "start_$KIND"
}

stop() {
    if [[ $KIND == postgres ]]; then signal_process postgres INT; else signal_process rabbitmq TERM; fi
    await_stopped "$KIND" 60
    await_released
}

kill_hard() {
    signal_tree KILL
    await_stopped "$KIND" 10
    await_released
}

# The kernel takes a process's memory first and its sockets later.
await_released() {
    wait_until 10 released || fail "the ports of $KIND stay open though it has ended"
}

released() {
    ! port_open "$POSTGRES_PORT" && { [[ $KIND == postgres ]] || ! port_open $((AMQP_PORT + 1000)); }
}

pause() {
    signal_tree STOP
}

resume() {
    signal_tree CONT
}

wipe() {
    [[ $KIND == rabbitmq ]] || fail "only a RabbitMQ can be wiped: a PostgreSQL's data cannot come back"
    is_stopped rabbitmq || fail "rabbitmq runs"
    rm -rf -- "$RABBITMQ_DATA"
}

remove() {
    if is_running "$KIND"; then kill_hard || true; fi
    stop_epmd || true
    if [[ -e $POSTGRES_DATA ]]; then
        wait_until 10 nobody_in "$(realpath "$POSTGRES_DATA")" || true
        rm -rf -- "$(realpath "$POSTGRES_DATA")"
    fi
    rm -rf -- "$DEV"
}

# Folders whose script was killed: nobody holds their lock. What cannot be removed now is left to the next.
sweep() {
    local KIND DEV PID_DIR POSTGRES_DATA
    for DEV in "$FOLDERS".*; do
        PID_DIR=$DEV/run POSTGRES_DATA=$DEV/postgres
        if [[ -e $DEV/alive ]]; then (remove_orphan) || true; fi
    done
}

remove_orphan() {
    exec 8<"$DEV/alive"
    flock -n 8 || return 0 # alive, or being removed by another
    for KIND in rabbitmq postgres; do
        if is_running "$KIND"; then signal_tree KILL; fi
    done
    remove
}

server_url() {
    if [[ $KIND == postgres ]]; then postgres_url postgres postgres; else amqp_url; fi
}

end() {
    # Not ready yet: whoever waits for that wants to know why it never came.
    if [[ ! -e $DEV/ready ]]; then cat "$LOG_DIR/private-server.log" >&4; fi
    remove
}

trap end EXIT
trap exit INT TERM HUP
sweep
choose_ports
start
: >"$DEV/ready"
printf 'ready %s %s\n' "$DEV" "$(server_url)" >&3

while read -r command; do
    case $command in
    start | stop | pause | resume | wipe) ;;
    kill) command=kill_hard ;;
    *) fail "private-server.sh does not know \"$command\"" ;;
    esac
    say "--- $command"
    # In a subshell that is no condition, so that the first failure ends the command, and only it.
    set +e
    (
        set -e
        "$command"
    )
    status=$?
    set -e
    if ((status == 0)); then say ok >&3; else say failed >&3; fi
done
