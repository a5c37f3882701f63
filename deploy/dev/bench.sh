#!/usr/bin/env bash
# The benchmark: the binaries that images have, a private PostgreSQL and RabbitMQ in .dev/bench-servers, crates/loadtest.
# Results in .dev/bench/TIMESTAMP.json, plots in .dev/bench/TIMESTAMP/. Arguments go to loadtest: deploy/dev/bench.sh --help
#
#   LOK_TEST_DATABASE_URL, LOK_TEST_AMQP_URL       servers to use instead; the database user may create databases, and order checkpoints
#   LOK_BENCH_PROFILE                             cargo's profile (production; release is built much faster, and runs a little slower)
#   LOK_BENCH_BUILT=1                             measures the binaries that are there
#   LOK_BENCH_POSTGRES_PORT, LOK_BENCH_AMQP_PORT   ports of the private ones (25434, 25674): below those
#                                                  that the system gives to connections, of which a benchmark makes many
set -euo pipefail

here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=deploy/dev/common.sh
. "$here/common.sh"
# shellcheck source=deploy/dev/choices.sh
. "$here/choices.sh"
# shellcheck source=deploy/dev/install.sh
. "$here/install.sh"

# Servers of the benchmark alone, whatever the caller's dev stack is told by its environment.
stack() (
    unset "${CHOICES[@]}"
    export LOK_DEV_DIR=$ROOT/.dev/bench-servers LOK_DEV_PORT_VARIABLES=LOK_BENCH
    export LOK_DEV_POSTGRES_PORT=${LOK_BENCH_POSTGRES_PORT:-25434} LOK_DEV_AMQP_PORT=${LOK_BENCH_AMQP_PORT:-25674}
    export LOK__DATABASE__URL=${LOK_TEST_DATABASE_URL:-} LOK__AMQP__URL=${LOK_TEST_AMQP_URL:-}
    exec "$here/stack.sh" "$1"
)

cd "$ROOT"
alone bench

need_build_tools
need taskset util-linux # pins dispatchers
LOG_DIR=$ROOT/.dev/log
mkdir -p "$LOG_DIR"
install_missing
PROFILE=${LOK_BENCH_PROFILE:-production}
if [ -z "${LOK_BENCH_BUILT:-}" ]; then
    say "building (cargo build --profile $PROFILE)"
    cargo build --profile "$PROFILE" --locked -p event-ingest -p dispatcher -p loadtest
fi

trap 'stack wipe' EXIT
stack wipe >/dev/null
stack servers
use_servers .dev/bench-servers/env

timeout --signal=TERM --kill-after=30 7200 "${CARGO_TARGET_DIR:-target}/$PROFILE/loadtest" "$@" 8>&-
