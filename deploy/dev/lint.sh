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

# `forbid` cannot be lifted inside a crate; what is left is a crate that does not take the workspace's lints.
check_unsafe() {
    local manifest wrong=0
    grep -qx 'unsafe_code = "forbid"' Cargo.toml || {
        say "Cargo.toml does not forbid unsafe_code"
        wrong=1
    }
    for manifest in crates/*/Cargo.toml; do
        if ! grep -A 1 -Fx '[lints]' "$manifest" | grep -qx 'workspace = true'; then
            say "$manifest does not take the lints of the workspace"
            wrong=1
        fi
    done
    # A workspace of its own, and libFuzzer's macro writes what `forbid` forbids.
    if grep -nw unsafe crates/fuzz/targets/*.rs; then
        say "the fuzz targets have unsafe code"
        wrong=1
    fi
    return $wrong
}

check_crates() {
    local deny=$ROOT/.dev/tools/cargo/bin/cargo-deny
    "$deny" --locked check -A license-exception-not-encountered bans licenses sources || return
    # A workspace of its own, of fewer crates: exceptions that it does not need are no news.
    "$deny" --manifest-path crates/fuzz/targets/Cargo.toml --config deny.toml --locked \
        check -A unmatched-skip -A unnecessary-skip -A unused-wrapper bans licenses sources
}

cd "$ROOT"
mkdir -p "$LOG_DIR"
need_build_tools
need shellcheck shellcheck
install_missing
"$here/tools.sh" cargo

check "cargo fmt" cargo fmt --all --check
check "cargo clippy" cargo clippy --locked --workspace --all-targets -- -D warnings
check "cargo doc" env RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps
check "shellcheck" check_shell
check "rustfmt, fuzz targets" rustfmt --check crates/fuzz/targets/*.rs
check "cargo deny" check_crates
check "what is shipped" python3 deploy/check/shipped.py
check "unsafe code" check_unsafe
check "threats and their tests" python3 deploy/check/threats.py

((${#FAILED[@]} == 0)) || fail "failed: $(printf '%s; ' "${FAILED[@]}")see above."
say "lint: all passed"
