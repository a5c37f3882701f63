# shellcheck shell=bash disable=SC2034 # the variables are for the scripts that source this one
# What the caller's environment chooses for the stack as a whole. A choice is kept in DEV/choices from `up` to `down`:
# later commands find the stack without being told again, and .dev/env stays true for processes that keep running.

CHOICES=(
    LOK_DEV_POSTGRES_PORT LOK_DEV_AMQP_PORT LOK_DEV_API_PORT LOK_DEV_INGEST_PORT LOK_DEV_ADMIN_PORT DISPATCHERS
    LOK__DATABASE__URL LOK__AMQP__URL LOK__AMQP__PREFIX
    LOK__API__LISTEN LOK__INGEST__LISTEN
    LOK__AUTH__HS256_SECRET LOK__AUTH__JWKS_FILE LOK__AUTH__JWKS_URL LOK__AUTH__ISSUER LOK__AUTH__AUDIENCE
    LOK__INGEST__TOKEN LOK__SECRETS__KEYS
)

# Kept choices become the environment; only the number of dispatchers may change while the stack runs.
# Sets CHANGED to the variables with which the caller asks for something else, ASKED to them with their values.
recall_choices() {
    CHANGED=()
    ASKED=()
    [[ -f $DEV/choices ]] || return 0
    local line name
    local -A kept=()
    while IFS= read -r line; do
        kept[${line%%=*}]=${line#*=}
    done <"$DEV/choices"
    for name in "${CHOICES[@]}"; do
        if [[ $name == DISPATCHERS && -v $name ]]; then continue; fi
        if [[ -v $name && ${!name} != "${kept[$name]-unset}" ]]; then
            CHANGED+=("$name")
            ASKED+=("$name=${!name}")
            unset "$name"
        fi
        if [[ -v kept[$name] ]]; then export "$name=${kept[$name]}"; fi
    done
}

keep_choices() {
    local name
    for name in "${CHOICES[@]}"; do
        if [[ -v $name ]]; then printf '%s=%s\n' "$name" "${!name}"; fi
    done | write_private "$DEV/choices"
}

forget_choices() {
    rm -f "$DEV/choices"
}

# Ports, loopback only. AMQP_PORT + 1000 and + 2000 are the broker's own; dispatcher n has ADMIN_PORT + 2 + n.
# shellcheck disable=SC2034 # read by whoever sources this, not by every one of them all
apply_choices() {
    POSTGRES_PORT=${LOK_DEV_POSTGRES_PORT:-55432}
    AMQP_PORT=${LOK_DEV_AMQP_PORT:-55672}
    API_LISTEN=${LOK__API__LISTEN:-$HOST:${LOK_DEV_API_PORT:-8080}}
    INGEST_LISTEN=${LOK__INGEST__LISTEN:-$HOST:${LOK_DEV_INGEST_PORT:-8081}}
    ADMIN_PORT=${LOK_DEV_ADMIN_PORT:-9080}
    DISPATCHERS=${DISPATCHERS:-1}
    [[ $DISPATCHERS =~ ^[1-9][0-9]?$ ]] || fail "DISPATCHERS must be 1 to 99, is $DISPATCHERS."
    local name
    for name in POSTGRES_PORT AMQP_PORT ADMIN_PORT; do
        # 63435: the broker's and the dispatchers' further ports lie above.
        if [[ ! ${!name} =~ ^[1-9][0-9]{0,4}$ ]] || ((${!name} > 63435)); then
            fail "LOK_DEV_$name must be a port from 1 to 63435, is ${!name}."
        fi
    done
}

private_postgres() {
    [[ -z ${LOK__DATABASE__URL:-} ]]
}

private_rabbitmq() {
    [[ -z ${LOK__AMQP__URL:-} ]]
}
