#!/usr/bin/env bash
# The main job, from a bare machine: installs what is missing, starts a private PostgreSQL and RabbitMQ, builds, migrates,
# runs the three services and receivers that verify with the guide's own Node, Python and PHP code, and lets crates/demo
# publish and check. Exit code 0 only if everything was as it has to be. Leaves nothing running, and no data.
#
#   LOK__DATABASE__URL, LOK__AMQP__URL                               servers to use instead of private ones; the database keeps
#                                                                    what the demo wrote, queues have the prefix lokroom-demo.
#   LOK_DEMO_POSTGRES_PORT, LOK_DEMO_AMQP_PORT                       55435, 55675
#   LOK_DEMO_API_PORT, LOK_DEMO_INGEST_PORT, LOK_DEMO_ADMIN_PORT     58080, 58081, 59080
set -euo pipefail

here=$(dirname "${BASH_SOURCE[0]}")
dev=$here/../dev
# A stack of the demo alone, beside whatever the caller runs and whatever their environment says about that.
for name in $(compgen -v LOK__) LOK_CONFIG DISPATCHERS; do
    case $name in LOK__DATABASE__URL | LOK__AMQP__URL) ;; *) unset "$name" ;; esac
done
if [[ -n ${LOK__AMQP__URL:-} ]]; then export LOK__AMQP__PREFIX=lokroom-demo.; fi
LOK_DEV_DIR=$(cd "$here/../.." && pwd -P)/.dev/demo
export LOK_DEV_DIR LOK_DEV_PORT_VARIABLES=LOK_DEMO
export LOK_DEV_POSTGRES_PORT=${LOK_DEMO_POSTGRES_PORT:-55435} LOK_DEV_AMQP_PORT=${LOK_DEMO_AMQP_PORT:-55675}
export LOK_DEV_API_PORT=${LOK_DEMO_API_PORT:-58080} LOK_DEV_INGEST_PORT=${LOK_DEMO_INGEST_PORT:-58081}
export LOK_DEV_ADMIN_PORT=${LOK_DEMO_ADMIN_PORT:-59080}
# Shorter than the guide's 1 and 5 minutes: who watches has to wait for them.
export LOK__DELIVERY__RETRY_DELAYS=1s,2s
# shellcheck source=deploy/dev/common.sh
. "$dev/common.sh"
# shellcheck source=deploy/dev/choices.sh
. "$dev/choices.sh"
# shellcheck source=deploy/dev/install.sh
. "$dev/install.sh"

cd "$ROOT"
mkdir -p "$LOG_DIR"
exec 8>"$DEV/demo.lock"
flock -n 8 || fail "another \`make demo\` runs in this checkout; wait for it to end."

demo_pid=
clean_up() {
    local code=$?
    trap - EXIT
    trap '' INT TERM HUP
    # It takes its receivers with it.
    if [[ -n $demo_pid ]] && kill -0 "$demo_pid" 2>/dev/null; then kill "$demo_pid" || true; fi
    say $'\n== Cleaning up =='
    "$dev/stack.sh" wipe 8>&- || code=1
    exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

say "== The stack =="
need_build_tools
"$dev/tools.sh" 8>&-
say "building the demo (cargo build --release)"
cargo build --release --locked -p demo 8>&-
"$dev/stack.sh" wipe >/dev/null 8>&- || true
"$dev/stack.sh" up 8>&-

while IFS='=' read -r name value; do
    case $name in
    LOK_AMQP_URL) export LOK__AMQP__URL="$value" ;;
    LOK_API_URL | LOK__*) export "$name=$value" ;;
    esac
done <"$DEV/env"
# In the background, so that a signal reaches the trap at once.
timeout --foreground --signal=TERM --kill-after=10 180 "${CARGO_TARGET_DIR:-target}/release/demo" 8>&- &
demo_pid=$!
wait "$demo_pid" || { demo_pid=; fail "not everything was as it has to be; the account above tells what, logs are in $LOG_DIR."; }
demo_pid=
say "everything was as it has to be"
