#!/usr/bin/env bash
# libFuzzer on the targets of crates/fuzz, side by side, at low priority. What is found is kept in .dev/fuzz, and fails.
#
#   TARGET       one of them (all)
#   MINUTES      for how long each (10)
#   SANITIZER    address, or none (address)
set -euo pipefail

here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=deploy/dev/common.sh
. "$here/common.sh"
# shellcheck source=deploy/dev/install.sh
. "$here/install.sh"

TARGETS_DIR=crates/fuzz/targets
WORK=$ROOT/.dev/fuzz

fuzz() { # COMMAND ARGUMENTS…
    cargo +nightly fuzz "$1" --fuzz-dir "$TARGETS_DIR" --target-dir target/fuzz --sanitizer "${SANITIZER:-address}" \
        "${@:2}" 8>&-
}

# What is found on the way goes to the first folder; the second is only read.
run() { # TARGET
    local new=$WORK/$1/inputs
    mkdir -p "$new" "$WORK/$1/findings"
    nice -n 19 "$(binary "$1")" "$new" "crates/fuzz/corpus/$1" \
        -dict="crates/fuzz/dictionaries/$1.dict" -artifact_prefix="$WORK/$1/findings/" \
        -max_total_time=$((${MINUTES:-10} * 60)) -max_len=16384 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        >"$LOG_DIR/fuzz-$1.log" 2>&1 8>&-
}

binary() { # TARGET
    printf '%s' "$ROOT/target/fuzz/$(uname -m)-unknown-linux-gnu/release/$1"
}

summary() { # TARGET
    local log=$LOG_DIR/fuzz-$1.log
    printf '%-12s %s inputs, coverage %s\n' "$1" \
        "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")" \
        "$(grep -oE 'cov: [0-9]+ ft: [0-9]+' "$log" | tail -n 1)"
}

cd "$ROOT"
alone fuzz
mkdir -p "$LOG_DIR"
need_build_tools
need c++ g++
need python3 python3
cargo +nightly --version >/dev/null 2>&1 ||
    fail "libFuzzer needs a nightly toolchain: rustup toolchain install nightly --profile minimal"
install_missing
"$here/tools.sh" cargo 8>&-
PATH=$ROOT/.dev/tools/cargo/bin:$PATH

mapfile -t targets < <(sed -n 's/^path = "\(.*\)\.rs"$/\1/p' "$TARGETS_DIR/Cargo.toml")
if [[ -n ${TARGET:-} ]]; then targets=("$TARGET"); fi

# The very versions that the services are built with.
if ! python3 deploy/check/shipped.py >/dev/null ||
    ! cargo metadata --locked --format-version 1 --manifest-path "$TARGETS_DIR/Cargo.toml" >/dev/null 2>&1; then
    say "Cargo.lock has changed: $TARGETS_DIR/Cargo.lock is made anew, commit it"
    cp Cargo.lock "$TARGETS_DIR/Cargo.lock"
fi
fuzz build

say "fuzzing ${targets[*]} for ${MINUTES:-10} minutes; logs in ${LOG_DIR#"$ROOT/"}/fuzz-….log"
declare -A running=()
for target in "${targets[@]}"; do
    run "$target" &
    running[$target]=$!
done
failed=()
for target in "${targets[@]}"; do
    wait "${running[$target]}" || failed+=("$target")
    summary "$target"
done

for target in "${failed[@]}"; do
    show_log_end "fuzz-$target"
    say "$target: the input is in .dev/fuzz/$target/findings"
done
((${#failed[@]} == 0)) || fail "found something: ${failed[*]}."
say "fuzz: nothing found"
