#!/usr/bin/env bash
# Checks what is deployed, without a cluster or a container engine: renders k8s/ and validates every object, checks
# Dockerfile and compose file, and shows that each check notices what it is for. Tools: kubectl, and Python packages in
# .dev/tools/check. Where the services are built, their own --print-config judges the values.
set -euo pipefail

here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=deploy/dev/common.sh
. "$here/dev/common.sh"
# shellcheck source=deploy/check/tools.sh
. "$here/check/tools.sh"

command -v kubectl >/dev/null || fail "kubectl is not on the PATH: it renders k8s/." \
    "Install it (https://kubernetes.io/docs/tasks/tools/, or the package kubernetes-client of Debian) and try again."
python_tools

FAILED=()
check() { # NAME SCRIPT
    say "--- $1"
    "$PYTHON" -B "$ROOT/deploy/check/$2" || FAILED+=("$1")
}
check "Kubernetes" kubernetes.py
check "images and compose" images.py

((${#FAILED[@]} == 0)) || fail "failed: ${FAILED[*]}; see above."
say "k8s-check: all passed"
