#!/usr/bin/env bash
# Two results of the benchmark, figure by figure: deploy/dev/bench-compare.sh BEFORE.json AFTER.json
set -euo pipefail

here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=deploy/dev/common.sh
. "$here/common.sh"

[[ $# == 2 && -f $1 && -f $2 ]] ||
    fail "make bench-compare A=before.json B=after.json: two files of results, as \`make bench\` writes them into .dev/bench"
program=${CARGO_TARGET_DIR:-$ROOT/target}/release/loadtest
[[ -x $program ]] || (cd "$ROOT" && cargo build --release --locked -p loadtest)
exec "$program" --compare "$1" "$2"
