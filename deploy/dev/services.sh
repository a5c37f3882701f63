# shellcheck shell=bash
# The platform's own processes: three services and their surroundings (database, broker, secrets, .dev/env).

BIN=$(realpath -m -- "${CARGO_TARGET_DIR:-$ROOT/target}")/release

build_services() {
    say "building the services (cargo build --release)"
    (cd "$ROOT" && cargo build --release --locked \
        -p management-api -p event-ingest -p dispatcher -p lokctl) ||
        fail "the build failed; the compiler's messages are above."
}

# What the services are started with: the caller's LOK__… as they are, and for the rest what a dev stack needs.
# Secrets are made once and kept in DEV/secrets.
export_settings() {
    # One address cannot serve several processes on one machine.
    [[ ! -v LOK__ADMIN__LISTEN ]] ||
        fail "LOK__ADMIN__LISTEN is set, but each process needs its own; set LOK_DEV_ADMIN_PORT, the first of them, instead."
    export LOK__DATABASE__URL LOK__AMQP__URL
    if private_postgres; then LOK__DATABASE__URL=$(postgres_url lokroom lokroom); fi
    if private_rabbitmq; then LOK__AMQP__URL=$(amqp_url); fi
    export LOK__API__LISTEN=$API_LISTEN LOK__INGEST__LISTEN=$INGEST_LISTEN
    export LOK__INGEST__TOKEN=${LOK__INGEST__TOKEN-$(secret LOK__INGEST__TOKEN random_hex 32)}
    export LOK__SECRETS__KEYS=${LOK__SECRETS__KEYS-$(secret LOK__SECRETS__KEYS encryption_keys)}
    # A caller with public keys of their own means those alone.
    if [[ ! -v LOK__AUTH__JWKS_FILE && ! -v LOK__AUTH__JWKS_URL ]]; then
        export LOK__AUTH__HS256_SECRET=${LOK__AUTH__HS256_SECRET-$(secret LOK__AUTH__HS256_SECRET random_hex 32)}
    fi
    export LOK__EGRESS__ALLOW_HTTP=${LOK__EGRESS__ALLOW_HTTP-true}
    export LOK__EGRESS__ALLOWED_NETWORKS=${LOK__EGRESS__ALLOWED_NETWORKS-127.0.0.0/8,::1/128}
}

encryption_keys() {
    printf 'dev:%s' "$(head -c 32 /dev/urandom | base64)"
}

migrate() {
    step "migrating the database"
    "$BIN/lokctl" migrate >"$LOG_DIR/migrate.log" 2>&1 || {
        show_log_end migrate
        fail "lokctl migrate failed; its output is above."
    }
    step_done migrated
}

# Names of all services, in the order of starting; dispatchers beyond DISPATCHERS count as long as they run.
service_names() {
    local n
    printf '%s\n' management-api event-ingest
    for ((n = 0; n < 100; n++)); do
        if ((n < DISPATCHERS)) || is_running "dispatcher-$n"; then printf 'dispatcher-%s\n' "$n"; fi
    done
}

admin_port() { # NAME
    case $1 in
    management-api) printf '%s' "$ADMIN_PORT" ;;
    event-ingest) printf '%s' $((ADMIN_PORT + 1)) ;;
    dispatcher-*) printf '%s' $((ADMIN_PORT + 2 + ${1#dispatcher-})) ;;
    esac
}

service_address() { # NAME
    case $1 in
    management-api) printf '%s' "$API_LISTEN" ;;
    event-ingest) printf '%s' "$INGEST_LISTEN" ;;
    dispatcher-*) printf '%s:%s' "$HOST" "$(admin_port "$1")" ;;
    esac
}

start_service() { # NAME
    local name=$1 port
    port=$(admin_port "$name")
    if is_running "$name"; then
        step "$name runs already"
    else
        case $name in
        management-api) require_port_free "${API_LISTEN##*:}" LOK_DEV_API_PORT "$name" ;;
        event-ingest) require_port_free "${INGEST_LISTEN##*:}" LOK_DEV_INGEST_PORT "$name" ;;
        esac
        require_port_free "$port" LOK_DEV_ADMIN_PORT "the admin server of $name"
        step "starting $name on $(service_address "$name")"
        (cd "$ROOT" && spawn "$name" "LOK__ADMIN__LISTEN=$HOST:$port" "$BIN/${name%-[0-9]*}")
    fi
    await_ready "$name" 60 service_ready "$name"
    step_done ready
    if [[ $(readlink "/proc/$(pid_of "$name")/exe") == *' (deleted)' ]]; then
        say "  $name runs an older build than the one in $BIN: make down, then make up, replaces it"
    fi
}

service_ready() { # NAME
    local answer
    answer=$(http_get "$(admin_port "$1")" /readyz) && [[ $answer == '200 '* ]]
}

# http_get PORT PATH: "STATUS BODY", on one line.
http_get() {
    local answer
    answer=$(
        exec 2>/dev/null 3<>"/dev/tcp/$HOST/$1" || exit
        printf 'GET %s HTTP/1.0\r\nHost: %s\r\n\r\n' "$2" "$HOST" >&3
        timeout 5 cat <&3
    ) || return 1
    [[ $answer =~ ^HTTP/1\.[01]\ ([0-9]{3}) ]] || return 1
    printf '%s %s' "${BASH_REMATCH[1]}" "$(tr -s '\r\n' ' ' <<<"${answer#*$'\r\n\r\n'}")"
}

# What scripts, lokctl and people need to reach the stack.
write_env() {
    {
        printf 'LOK_API_URL=http://%s\n' "$API_LISTEN"
        printf 'LOK_INGEST_URL=http://%s\n' "$INGEST_LISTEN"
        printf 'LOK_AMQP_URL=%s\n' "$LOK__AMQP__URL"
        printf 'LOK_DATABASE_URL=%s\n' "$LOK__DATABASE__URL"
        printf 'LOK_RABBITMQ_DATA=%s\n' "$RABBITMQ_DATA"
        printf 'LOK_PID_DIR=%s\n' "$PID_DIR"
        local name
        for name in LOK__AMQP__PREFIX LOK__AUTH__HS256_SECRET LOK__AUTH__ISSUER LOK__AUTH__AUDIENCE \
            LOK__INGEST__TOKEN LOK__SECRETS__KEYS; do
            if [[ -v $name ]]; then printf '%s=%s\n' "$name" "${!name}"; fi
        done
    } | write_private "$DEV/env"
}
