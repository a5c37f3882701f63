# shellcheck shell=bash
# Installing what is missing, and nothing else, from the packages of Debian and Ubuntu.
#
# `need_…` notes packages; `install_missing` installs them all at once. No server that the machine runs is started,
# stopped or changed, and no server that is newly installed is started.

PACKAGES=()

need() { # COMMAND PACKAGE…
    if ! command -v "$1" >/dev/null; then
        PACKAGES+=("${@:2}")
    fi
}

need_build_tools() {
    need cc gcc libc6-dev
    # rustup picks the version of rust-toolchain.toml, and fetches it at the first use.
    command -v cargo >/dev/null || fail "no Rust toolchain: cargo is not on the PATH." \
        "Install rustup (https://rustup.rs, or the package rustup of Debian 13 and Ubuntu 24.04) and open a new shell."
    (cd "$ROOT" && cargo --version >/dev/null) ||
        fail "cargo does not run; rust-toolchain.toml asks for $(grep channel "$ROOT/rust-toolchain.toml")."
}

# Servers to start, where none that is good enough is installed: see postgres.sh and rabbitmq.sh.
need_postgres() {
    need psql postgresql-client
    postgres_bin >/dev/null || PACKAGES+=(postgresql)
}

need_rabbitmq() {
    rabbitmq_bin >/dev/null || PACKAGES+=(rabbitmq-server)
}

# The languages of the guide's examples, in which tests and demo verify deliveries.
need_receiver_tools() {
    need node nodejs
    need npm npm
    need_python
    need php php-cli
}

need_python() {
    need python3 python3
    python3 -c 'import ensurepip, venv' 2>/dev/null || PACKAGES+=(python3-venv)
}

install_missing() {
    ((${#PACKAGES[@]})) || return 0
    local sudo=()
    command -v apt-get >/dev/null || fail "missing here: ${PACKAGES[*]} (names of Debian's packages)." \
        "Only Debian and Ubuntu are served automatically: install these by hand. In place of the private servers," \
        "LOK__DATABASE__URL and LOK__AMQP__URL may name a PostgreSQL (15 or newer) and a RabbitMQ that you have."
    if ! is_root; then
        command -v sudo >/dev/null || fail "missing: ${PACKAGES[*]}. As root: apt-get install ${PACKAGES[*]}"
        sudo=(sudo)
    fi
    say "installing ${PACKAGES[*]}"
    "${sudo[@]}" "$BASH" "${BASH_SOURCE[0]%/*}/install-packages.sh" "${PACKAGES[@]}" >"$LOG_DIR/install.log" 2>&1 || {
        show_log_end install
        fail "apt-get could not install ${PACKAGES[*]}; its output is above."
    }
    PACKAGES=()
    hash -r
}
