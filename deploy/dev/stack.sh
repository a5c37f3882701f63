#!/usr/bin/env bash
# The dev stack: private PostgreSQL and RabbitMQ, management-api, event-ingest and dispatchers, on loopback.
#
#   stack.sh up | servers | down | wipe | status | logs [NAME]
#
# `servers` starts PostgreSQL and RabbitMQ alone; `wipe` is `down` and removes the data. The environment chooses:
#   DISPATCHERS                                     how many (1); fewer than run now: the others are left running
#   LOK__…                                          reaches the services
#   LOK__DATABASE__URL, LOK__AMQP__URL              servers to use instead of private ones
#   LOK_DEV_POSTGRES_PORT, LOK_DEV_AMQP_PORT        55432, 55672 (and the 1000th and 2000th port above the latter)
#   LOK_DEV_API_PORT, LOK_DEV_INGEST_PORT           8080, 8081
#   LOK_DEV_ADMIN_PORT                              9080, 9081, 9082 + n
#   LOK_DEV_DIR                                     .dev; one more folder and other ports: one more stack
set -euo pipefail

here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=deploy/dev/common.sh
. "$here/common.sh"
# shellcheck source=deploy/dev/choices.sh
. "$here/choices.sh"
# shellcheck source=deploy/dev/install.sh
. "$here/install.sh"
# shellcheck source=deploy/dev/process.sh
. "$here/process.sh"
# shellcheck source=deploy/dev/postgres.sh
. "$here/postgres.sh"
# shellcheck source=deploy/dev/rabbitmq.sh
. "$here/rabbitmq.sh"
# shellcheck source=deploy/dev/services.sh
. "$here/services.sh"

up() {
    begin
    need_build_tools
    need_servers
    install_missing
    build_services
    start_servers
    export_settings
    migrate
    local name
    while IFS= read -r name; do
        start_service "$name"
    done < <(service_names)
    write_env
    tell_surplus
    say "ready: API http://$API_LISTEN, everything else in $DEV/env"
}

servers() {
    begin
    need_servers
    install_missing
    start_servers
    {
        printf 'LOK_DATABASE_URL=%s\n' "${LOK__DATABASE__URL:-$(postgres_url lokroom lokroom)}"
        printf 'LOK_AMQP_URL=%s\n' "${LOK__AMQP__URL:-$(amqp_url)}"
        printf 'LOK_TEST_DATABASE_URL=%s\n' "${LOK__DATABASE__URL:-$(postgres_url postgres postgres)}"
        printf 'LOK_TEST_AMQP_URL=%s\n' "${LOK__AMQP__URL:-$(amqp_url)}"
        printf 'LOK_RABBITMQ_DATA=%s\n' "$RABBITMQ_DATA"
        printf 'LOK_PID_DIR=%s\n' "$PID_DIR"
    } | write_private "$DEV/env"
}

need_servers() {
    need flock util-linux
    if private_postgres; then need_postgres; fi
    if private_rabbitmq; then need_rabbitmq; fi
}

# What a running stack was started with is not changed under it.
begin() {
    lock_stack
    if ((${#CHANGED[@]})); then
        local running
        running=$(running_names)
        [[ -z $running ]] || fail "this stack runs with other values of ${CHANGED[*]} (running: ${running//$'\n'/ })." \
            "\`make down\` first, or choose another folder with LOK_DEV_DIR."
        forget_choices
        exec 9>&-
        export "${ASKED[@]}"
        exec "${BASH_SOURCE[0]}" "$COMMAND"
    fi
    keep_choices
}

start_servers() {
    if private_postgres; then start_postgres; else say "using the PostgreSQL of LOK__DATABASE__URL"; fi
    if private_rabbitmq; then start_rabbitmq; else say "using the RabbitMQ of LOK__AMQP__URL"; fi
}

tell_surplus() {
    local name
    while IFS= read -r name; do
        if [[ $name == dispatcher-* ]] && ((${name#dispatcher-} >= DISPATCHERS)); then
            say "$name is left running beside the $DISPATCHERS asked for; kill \$(cat $PID_DIR/$name.pid) drains and ends it"
        fi
    done < <(service_names)
}

running_names() {
    local file name
    for file in "$PID_DIR"/*.pid; do
        name=$(basename "$file" .pid)
        if is_running "$name"; then say "$name"; fi
    done
}

# Services drain first, all at once; then the servers they need.
down() {
    lock_stack
    local name left=0 services=() servers=()
    while IFS= read -r name; do
        case $name in
        '') ;;
        postgres | rabbitmq) servers+=("$name") ;;
        *) services+=("$name") ;;
        esac
    done < <(running_names)
    if ((${#services[@]} + ${#servers[@]} == 0)); then say "nothing runs in $DEV"; fi
    for name in "${services[@]}"; do signal_process "$name" TERM; done
    for name in "${services[@]}"; do stop "$name" 60 || left=1; done
    for name in "${servers[@]}"; do signal_process "$name" "$(stop_signal "$name")"; done
    for name in "${servers[@]}"; do stop "$name" 60 || left=1; done
    if is_stopped rabbitmq; then stop_epmd; fi
    ((left == 0)) || exit 1
    rm -f "$PID_DIR"/*.pid
    forget_choices
}

wipe() {
    down
    if [[ -e $POSTGRES_DATA ]]; then rm -rf -- "$(realpath "$POSTGRES_DATA")" "$POSTGRES_DATA"; fi
    rm -rf -- "$RABBITMQ_HOME" "$DEV/secrets" "$DEV/env"
}

stop() { # NAME SECONDS
    step "stopping $1"
    await_stopped "$1" "$2" && step_done stopped
}

# PostgreSQL takes TERM for "when the last client has gone".
stop_signal() {
    if [[ $1 == postgres ]]; then printf INT; else printf TERM; fi
}

status() {
    local name bad=0
    printf '%-16s %-8s %-22s %s\n' NAME PID ADDRESS STATE
    if private_postgres; then
        status_line postgres "$HOST:$POSTGRES_PORT" postgres_ready || bad=1
    fi
    if private_rabbitmq; then
        status_line rabbitmq "$HOST:$AMQP_PORT" rabbitmq_ready || bad=1
    fi
    while IFS= read -r name; do
        status_line "$name" "$(service_address "$name")" service_ready "$name" || bad=1
    done < <(service_names)
    return "$bad"
}

status_line() { # NAME ADDRESS COMMAND…
    local name=$1 address=$2 pid state=ready
    shift 2
    if ! pid=$(pid_of "$name"); then
        pid=- state="not running"
    elif ! "$@"; then
        state="not ready: $(why_not_ready "$name")"
    fi
    printf '%-16s %-8s %-22s %s\n' "$name" "$pid" "$address" "$state"
    [[ $state == ready ]]
}

why_not_ready() { # NAME
    case $1 in
    postgres | rabbitmq) printf 'no answer on its port, see %s' "$LOG_DIR/$1.log" ;;
    *) http_get "$(admin_port "$1")" /readyz || printf 'no answer from its admin server, see %s' "$LOG_DIR/$1.log" ;;
    esac
}

logs() {
    if [[ -n ${1:-} ]]; then
        [[ -f $LOG_DIR/$1.log ]] || fail "no log of \"$1\"; there are: $(cd "$LOG_DIR" 2>/dev/null && ls)"
        exec tail -n 50 -F "$LOG_DIR/$1.log"
    fi
    [[ -d $LOG_DIR ]] || fail "no logs in $LOG_DIR; \`make up\` starts the stack."
    exec tail -n 10 -F "$LOG_DIR"/*.log
}

COMMAND=${1:-}
case $COMMAND in
up | servers | down | wipe | status | logs)
    recall_choices
    apply_choices
    "$@"
    ;;
*)
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
    exit 2
    ;;
esac
