# shellcheck shell=bash
# Processes in the background: NAME runs with its own pid in run/NAME.pid and its output in log/NAME.log.
#
# A pid alone proves nothing, it may have been given to somebody else since. Whatever is started here carries
# LOK_DEV_PROCESS=<stack directory>/NAME in its environment, and only a process that does is believed or killed.

mark() {
    printf 'LOK_DEV_PROCESS=%s/%s' "$DEV" "$1"
}

is_ours() { # PID NAME
    grep -qzxF -- "$(mark "$2")" "/proc/$1/environ" 2>/dev/null
}

# The pid of NAME on standard output; false when it doesn't run.
pid_of() {
    local pid
    { read -r pid <"$PID_DIR/$1.pid"; } 2>/dev/null || return 1
    [[ $pid =~ ^[1-9][0-9]*$ ]] && is_ours "$pid" "$1" && printf '%s' "$pid"
}

is_running() {
    pid_of "$1" >/dev/null
}

is_stopped() {
    ! is_running "$1"
}

# spawn NAME [-i] [VARIABLE=value…] COMMAND…: detached from the terminal, from our descriptors and our session.
# -i: the command gets only the variables named.
spawn() {
    local name=$1 clean=()
    shift
    if [[ $1 == -i ]]; then
        clean=(-i)
        shift
    fi
    (
        # Not only 0, 1 and 2: our lock and make's job server must not live on in a service.
        for fd in "/proc/$BASHPID/fd/"*; do
            fd=${fd##*/}
            if ((fd > 2)); then eval "exec $fd>&-"; fi
        done
        exec setsid env "${clean[@]}" "$(mark "$name")" "$@" </dev/null >>"$LOG_DIR/$name.log" 2>&1
    ) &
    local pid=$!
    printf '%s\n' "$pid" >"$PID_DIR/$name.pid"
    # Until the last exec the process doesn't carry its mark.
    wait_until 10 spawn_settled "$pid" "$name"
}

spawn_settled() { # PID NAME
    is_ours "$1" "$2" || ! kill -0 "$1" 2>/dev/null
}

# await_ready NAME SECONDS COMMAND…: until the command says yes; ends the script, showing the log, when NAME died or
# the time is over.
await_ready() {
    local name=$1 seconds=$2
    shift 2
    wait_until "$seconds" ready_or_stopped "$name" "$@" || true
    if is_stopped "$name"; then
        show_log_end "$name"
        fail "$name ended while it was starting; the end of $LOG_DIR/$name.log is above."
    elif ! "$@"; then
        show_log_end "$name"
        fail "$name was not ready within $seconds s; the end of $LOG_DIR/$name.log is above."
    fi
}

ready_or_stopped() { # NAME COMMAND…
    local name=$1
    shift
    "$@" || has_ended "$name"
}

# Looked at twice: in the instant of an exec a process has no environment, and RabbitMQ's start is several.
has_ended() {
    is_stopped "$1" && sleep 0.2 && is_stopped "$1"
}

# signal_process NAME SIGNAL: asks it to stop, if it runs.
signal_process() {
    local pid
    pid=$(pid_of "$1") || return 0
    kill -"$2" "$pid"
}

# await_stopped NAME SECONDS: false, and says so, when it still runs then.
await_stopped() {
    if wait_until "$2" is_stopped "$1"; then
        rm -f "$PID_DIR/$1.pid"
    else
        local pid
        pid=$(pid_of "$1") || return 0
        say "$1 (pid $pid) did not stop within $2 s; see $LOG_DIR/$1.log, or end it with \`kill -9 $pid\`."
        return 1
    fi
}
