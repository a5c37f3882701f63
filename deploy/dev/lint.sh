#!/usr/bin/env bash
# Everything that is judged without running it; all checks run, and each failure counts.
set -euo pipefail

here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=deploy/dev/common.sh
. "$here/common.sh"
# shellcheck source=deploy/dev/install.sh
. "$here/install.sh"

FAILED=()

check() { # NAME COMMAND…
    say "--- $1"
    if ! "${@:2}"; then FAILED+=("$1"); fi
}

# Scripts that are run; what they source is checked with them.
shell_scripts() {
    git ls-files --cached --others --exclude-standard -- '*.sh' .ci/run | while IFS= read -r file; do
        if [[ $(head -n 1 "$file") == '#!'* ]]; then printf '%s\n' "$file"; fi
    done
}

check_shell() {
    local files
    mapfile -t files < <(shell_scripts)
    shellcheck --external-sources --check-sourced "${files[@]}"
}

# Cryptography is ring; a second one, or the system's, comes in through a careless feature.
check_crates() {
    local found
    found=$(cargo tree --locked --workspace --target all --prefix none --format '{p}' | cut -d ' ' -f 1 | sort -u |
        grep -xE 'openssl|openssl-sys|native-tls|aws-lc-rs|aws-lc-sys') || return 0
    say "must not be in the dependency tree: ${found//$'\n'/ }; \`cargo tree -i NAME\` shows who wants it"
    return 1
}

cd "$ROOT"
mkdir -p "$LOG_DIR"
need_build_tools
need shellcheck shellcheck
install_missing

check "cargo fmt" cargo fmt --all --check
check "cargo clippy" cargo clippy --locked --workspace --all-targets -- -D warnings
check "cargo doc" env RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps
check "shellcheck" check_shell
check "forbidden crates" check_crates
if cargo deny --version >/dev/null 2>&1; then
    check "cargo deny" cargo deny --locked check bans licenses sources
else
    say "--- cargo deny: not installed, left out (cargo install cargo-deny)"
fi

((${#FAILED[@]} == 0)) || fail "failed: $(printf '%s; ' "${FAILED[@]}")see above."
say "lint: all passed"
