#!/usr/bin/env bash
# Known vulnerabilities, unmaintained and yanked crates among the dependencies. Fetches the RustSec advisory database from
# GitHub, which is why it is no part of `make lint`; where it cannot be fetched, this fails.
set -euo pipefail

here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=deploy/dev/common.sh
. "$here/common.sh"

cd "$ROOT"
"$here/tools.sh" cargo
.dev/tools/cargo/bin/cargo-deny --locked check advisories ||
    fail "not passed, or the advisory database could not be fetched: see above."
say "audit: no advisory concerns the dependencies"
