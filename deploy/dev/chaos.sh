#!/usr/bin/env bash
# Faults at random on servers of its own, and the proof from outside that nothing was lost: crates/chaos.
# Arguments go to the program: deploy/dev/chaos.sh --help
#
#   MINUTES         how long faults and events come (5)
#   SEED            which faults and events (one at random, which is printed)
#   RATE            events a second (60)
#   WIPE=1          deletes the broker's data now and then, too
#   SHARDS          shards of the queues for dispatchers (1)
#   RELEASE=1       release builds instead of debug builds
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

cd "$ROOT"
alone chaos
LOG_DIR=$ROOT/.dev/log
mkdir -p "$LOG_DIR"
need_build_tools
need_postgres
need_rabbitmq
install_missing

profile=debug release=()
if [[ -n ${RELEASE:-} ]]; then profile=release release=(--release); fi
say "building ($profile)"
cargo build "${release[@]}" --locked -p management-api -p event-ingest -p dispatcher -p chaos

arguments=()
if [[ -n ${MINUTES:-} ]]; then arguments+=(--minutes "$MINUTES"); fi
if [[ -n ${SEED:-} ]]; then arguments+=(--seed "$SEED"); fi
if [[ -n ${RATE:-} ]]; then arguments+=(--rate "$RATE"); fi
if [[ -n ${WIPE:-} ]]; then arguments+=(--wipe); fi
if [[ -n ${SHARDS:-} ]]; then arguments+=(--shards "$SHARDS"); fi
forget_settings
"${CARGO_TARGET_DIR:-target}/$profile/chaos" "${arguments[@]}" "$@" 8>&-
