#!/usr/bin/env bash
# Checks proto-schemas/asyncapi.yaml: AsyncAPI's own parser, and a comparison with the code, the JSON Schemas, the protobuf
# and the examples. Tools: Node and npm packages in .dev/tools/check-node, Python packages in .dev/tools/check.
set -euo pipefail

here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=deploy/dev/common.sh
. "$here/dev/common.sh"
# shellcheck source=deploy/check/tools.sh
. "$here/check/tools.sh"

python_tools
node_tools

FAILED=()
check() { # NAME COMMAND…
    say "--- $1"
    "${@:2}" || FAILED+=("$1")
}
check "AsyncAPI 3" node "$CHECK/asyncapi/check.mjs" "$NODE_DIR" "$ROOT/proto-schemas/asyncapi.yaml"
check "AsyncAPI against the code" "$PYTHON" -B "$CHECK/asyncapi.py"

((${#FAILED[@]} == 0)) || fail "failed: ${FAILED[*]}; see above."
say "asyncapi-check: all passed"
