# shellcheck shell=bash
# The private RabbitMQ: one node; AMQP, Erlang distribution and epmd on loopback, each on a port of its own.

RABBITMQ_HOME=$DEV/rabbitmq # .erlang.cookie and configuration
RABBITMQ_DATA=$DEV/rabbitmq/data

# Not /usr/sbin/rabbitmq-server: that wrapper changes to user rabbitmq.
rabbitmq_bin() {
    local dir
    for dir in /usr/lib/rabbitmq/bin /usr/lib/rabbitmq/lib/*/sbin; do
        if [[ -x $dir/rabbitmq-server ]]; then
            printf '%s' "$dir"
            return
        fi
    done
    return 1
}

amqp_url() {
    printf 'amqp://lokroom:%s@%s:%s/%%2f' "$(secret RABBITMQ_PASSWORD random_hex 16)" "$HOST" "$AMQP_PORT"
}

# The broker answers the protocol header with a method frame: listeners open last, when all queues are back.
rabbitmq_ready() {
    local frame
    frame=$(
        exec 2>/dev/null 3<>"/dev/tcp/$HOST/$AMQP_PORT" || exit
        printf 'AMQP\0\0\011\001' >&3
        timeout 5 head -c 1 <&3 | od -An -tx1
    ) || return 1
    [[ $frame == ' 01' ]]
}

start_rabbitmq() {
    if is_running rabbitmq; then
        await_ready rabbitmq 120 rabbitmq_ready
        return
    fi
    local bin
    bin=$(rabbitmq_bin) || fail "no RabbitMQ server found. Install the package rabbitmq-server," \
        "or set LOK__AMQP__URL to a broker you have."
    local dist_port=$((AMQP_PORT + 1000)) epmd_port=$((AMQP_PORT + 2000))
    require_port_free "$AMQP_PORT" LOK_DEV_AMQP_PORT RabbitMQ
    require_port_free "$dist_port" LOK_DEV_AMQP_PORT "RabbitMQ's Erlang distribution (AMQP + 1000)"
    # An epmd of our own outlives a broker that was killed, and serves the next.
    [[ -n $(rabbitmq_epmd) ]] ||
        require_port_free "$epmd_port" LOK_DEV_AMQP_PORT "RabbitMQ's epmd (AMQP + 2000)"
    write_rabbitmq_configuration
    step "starting RabbitMQ on $HOST:$AMQP_PORT"
    # RUNNING_UNDER_SYSTEMD: the start script becomes the broker instead of staying as its parent, so that the pid
    # is the broker's.
    (
        cd "$RABBITMQ_HOME" || exit
        spawn rabbitmq -i "PATH=$PATH" "HOME=$RABBITMQ_HOME" LANG=C.UTF-8 RUNNING_UNDER_SYSTEMD=true \
            RABBITMQ_NODENAME=lokroom@localhost \
            RABBITMQ_NODE_IP_ADDRESS="$HOST" RABBITMQ_NODE_PORT="$AMQP_PORT" \
            RABBITMQ_DIST_PORT="$dist_port" \
            ERL_EPMD_PORT="$epmd_port" ERL_EPMD_ADDRESS="$HOST" \
            RABBITMQ_MNESIA_BASE="$RABBITMQ_DATA" RABBITMQ_LOG_BASE="$LOG_DIR" RABBITMQ_LOGS=- \
            RABBITMQ_PID_FILE="$RABBITMQ_HOME/pid" \
            RABBITMQ_CONF_ENV_FILE=/dev/null \
            RABBITMQ_CONFIG_FILE="$RABBITMQ_HOME/rabbitmq.conf" \
            RABBITMQ_ADVANCED_CONFIG_FILE="$RABBITMQ_HOME/advanced.config" \
            RABBITMQ_ENABLED_PLUGINS_FILE="$RABBITMQ_HOME/enabled_plugins" \
            RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}' \
            ERL_CRASH_DUMP="$LOG_DIR/erl_crash.dump" \
            "$bin/rabbitmq-server"
    )
    await_ready rabbitmq 120 rabbitmq_ready
    step_done ready
}

# Written at every start: a wiped data folder gets the same user again.
write_rabbitmq_configuration() {
    mkdir -p "$RABBITMQ_DATA"
    chmod 700 "$RABBITMQ_HOME"
    local cookie=$RABBITMQ_HOME/.erlang.cookie
    [[ -s $cookie ]] || (umask 077 && random_hex 16 >"$cookie")
    printf '[].\n' >"$RABBITMQ_HOME/enabled_plugins"
    printf '[].\n' >"$RABBITMQ_HOME/advanced.config"
    cat >"$RABBITMQ_HOME/rabbitmq.conf" <<CONF
listeners.tcp.1 = $HOST:$AMQP_PORT
default_user = lokroom
default_pass = $(secret RABBITMQ_PASSWORD random_hex 16)
default_user_tags.administrator = true
disk_free_limit.absolute = 200MB
max_message_size = 4194304
CONF
}

# The pid of our epmd: started by the broker, so it carries the broker's mark.
rabbitmq_epmd() {
    local entry
    for entry in /proc/[0-9]*; do
        if [[ $(cat "$entry/comm" 2>/dev/null) == epmd ]] && is_ours "${entry#/proc/}" rabbitmq; then
            printf '%s' "${entry#/proc/}"
        fi
    done
}

stop_epmd() {
    local pid
    pid=$(rabbitmq_epmd)
    if [[ -n $pid ]]; then kill "$pid"; fi
}
