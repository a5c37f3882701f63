#!/usr/bin/env bash
# Every test, from a bare machine: tools, a private PostgreSQL and RabbitMQ in .dev/test, debug binaries, tests.
#
#   LOK_TEST_DATABASE_URL, LOK_TEST_AMQP_URL     servers to use instead; the database user may create databases
#   LOK_TEST_FULL_LOAD=1                         tests of memory with the full load: minutes instead of seconds
#   LOK_TEST_POSTGRES_PORT, LOK_TEST_AMQP_PORT   ports of the private ones (55433, 55673)
#   TESTS                                        only tests whose name contains this
set -euo pipefail

here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=deploy/dev/common.sh
. "$here/common.sh"
# shellcheck source=deploy/dev/install.sh
. "$here/install.sh"
# shellcheck source=deploy/dev/postgres.sh
. "$here/postgres.sh"
# shellcheck source=deploy/dev/rabbitmq.sh
. "$here/rabbitmq.sh"

# The stack of the tests is theirs alone, whatever the caller's dev stack is told by its environment.
stack() (
    for name in DISPATCHERS $(compgen -v LOK_DEV_) $(compgen -v LOK__); do unset "$name"; done
    export LOK_DEV_DIR=$ROOT/.dev/test LOK_DEV_PORT_VARIABLES=LOK_TEST
    export LOK_DEV_POSTGRES_PORT=${LOK_TEST_POSTGRES_PORT:-55433} LOK_DEV_AMQP_PORT=${LOK_TEST_AMQP_PORT:-55673}
    export LOK__DATABASE__URL=${LOK_TEST_DATABASE_URL:-} LOK__AMQP__URL=${LOK_TEST_AMQP_URL:-}
    exec "$here/stack.sh" "$1"
)

cd "$ROOT"
alone test

need_build_tools
# Some tests start servers of their own, whatever the others use.
mkdir -p "$LOG_DIR"
need_postgres
need_rabbitmq
install_missing
"$here/tools.sh"

trap 'stack wipe' EXIT
stack wipe >/dev/null
stack servers
use_servers .dev/test/env

filter=()
if [[ -n ${TESTS:-} ]]; then read -ra filter <<<"$TESTS"; fi

run_cargo() {
    cargo "$1" --locked --workspace "${@:2}" 8>&-
}

say "building the binaries that the tests run"
run_cargo build --bins
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --locked --workspace --no-fail-fast "${filter[@]}" 8>&-
    run_cargo test --doc -- "${filter[@]}"
else
    run_cargo test --no-fail-fast -- "${filter[@]}"
fi
