#!/usr/bin/env bash
# Writes the tables and plots of docs/performance.md anew: deploy/dev/bench-docs.sh RESULT.json…
# Of several files, later ones add the scenarios that earlier ones do not have.
set -euo pipefail

here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=deploy/dev/common.sh
. "$here/common.sh"

(($# > 0)) || fail "make bench-docs RESULT=.dev/bench/TIMESTAMP.json: what \`make bench\` wrote; several in quotes"
for file in "$@"; do
    [[ -f $file ]] || fail "$file is not there"
done
cd "$ROOT"
cargo build --release --locked -p loadtest
exec "${CARGO_TARGET_DIR:-target}/release/loadtest" docs "$@"
