# shellcheck shell=bash
# The private PostgreSQL: loopback only, passwords even there, nothing shared with a server the machine may run.

POSTGRES_DATA=$DEV/postgres

# postgres refuses to run as root: there it runs as the user its package has made.
AS_POSTGRES=()
if is_root; then AS_POSTGRES=(setpriv --reuid=postgres --regid=postgres --clear-groups --); fi

# The folder of the newest installed server of at least version 15, or of exactly the version that wrote the data.
postgres_bin() {
    local wanted='' dir
    { read -r wanted <"$POSTGRES_DATA/PG_VERSION"; } 2>/dev/null || true
    while IFS= read -r dir; do
        [[ -x $dir/initdb && $("$dir/postgres" --version) =~ ([0-9]+) ]] || continue
        if ((BASH_REMATCH[1] >= 15 && BASH_REMATCH[1] == ${wanted:-BASH_REMATCH[1]})); then
            printf '%s' "$dir"
            return
        fi
    done < <(printf '%s\n' /usr/lib/postgresql/*/bin /usr/pgsql-*/bin | sort -rV; pg_config --bindir 2>/dev/null)
    return 1
}

# postgres is the superuser, for tests and for making the database; the services are lokroom.
postgres_url() { # USER DATABASE
    printf 'postgres://%s:%s@%s:%s/%s' "$1" "$(secret "POSTGRES_PASSWORD_$1" random_hex 16)" "$HOST" "$POSTGRES_PORT" "$2"
}

# postgres_sql DATABASE [STATEMENT]: as superuser; the statement from standard input where none is given.
postgres_sql() {
    local what=()
    if (($# > 1)); then what=(-c "$2"); fi
    PGCONNECT_TIMEOUT=5 psql -X -q -A -t -v ON_ERROR_STOP=1 -d "$(postgres_url postgres "$1")" "${what[@]}"
}

postgres_ready() {
    postgres_sql postgres 'select 1' >/dev/null 2>&1
}

start_postgres() {
    if is_running postgres; then
        await_ready postgres 60 postgres_ready
        return
    fi
    local bin
    bin=$(postgres_bin) || fail "no PostgreSQL server to start: version $(postgres_wanted) is needed." \
        "Install it, or set LOK__DATABASE__URL to a database you have."
    require_port_free "$POSTGRES_PORT" LOK_DEV_POSTGRES_PORT PostgreSQL
    postgres_place
    clear_postgres_remains
    if [[ ! -f $POSTGRES_DATA/PG_VERSION ]]; then
        step "creating a PostgreSQL data folder in $POSTGRES_DATA"
        create_postgres_data "$bin"
        step_done created
    fi
    step "starting PostgreSQL on $HOST:$POSTGRES_PORT"
    spawn postgres -i "PATH=$PATH" LC_ALL=C "${AS_POSTGRES[@]}" "$bin/postgres" -D "$(realpath "$POSTGRES_DATA")" \
        -c listen_addresses="$HOST" -c port="$POSTGRES_PORT" -c unix_socket_directories= \
        -c max_connections=300 -c max_wal_size=4GB -c fsync=on -c synchronous_commit=on -c timezone=UTC
    await_ready postgres 60 postgres_ready
    create_database
    step_done ready
}

postgres_wanted() {
    if [[ -f $POSTGRES_DATA/PG_VERSION ]]; then
        printf '%s, which made %s (remove that folder to start with an empty one),' \
            "$(<"$POSTGRES_DATA/PG_VERSION")" "$(realpath "$POSTGRES_DATA")"
    else
        printf '15 or newer'
    fi
}

# Where user postgres cannot reach the checkout (below a 0700 home), the data lives in /var/lib and a link points there.
postgres_place() {
    if ! is_root; then
        mkdir -p "$POSTGRES_DATA"
        chmod 700 "$POSTGRES_DATA"
        return
    fi
    getent passwd postgres >/dev/null || fail "PostgreSQL doesn't run as root, and there is no user postgres to run it." \
        "Install the distribution's postgresql package, or run this as an ordinary user."
    local elsewhere
    elsewhere=/var/lib/lokroom-dev/$(printf '%s' "$DEV" | sha256sum | cut -c 1-16)
    [[ ! -e $POSTGRES_DATA ]] || return 0
    rm -f "$POSTGRES_DATA" # a link to a folder that is gone
    mkdir -m 700 "$POSTGRES_DATA"
    chown postgres:postgres "$POSTGRES_DATA"
    if "${AS_POSTGRES[@]}" test -w "$POSTGRES_DATA"; then return; fi
    say "user postgres cannot reach $POSTGRES_DATA: the data goes to $elsewhere, with a link to it"
    rmdir "$POSTGRES_DATA"
    discard_orphan "$elsewhere"
    mkdir -p "${elsewhere%/*}"
    mkdir -m 700 "$elsewhere"
    chown postgres:postgres "$elsewhere"
    ln -s "$elsewhere" "$POSTGRES_DATA"
}

# Data under /var/lib whose stack directory, with the passwords and keys to it, was removed.
discard_orphan() {
    [[ -d $1 ]] || return 0
    local pid
    pid=$(processes_in "$1")
    [[ -z $pid ]] || fail "PostgreSQL still runs on $1, the data of a removed $DEV (pids: $pid); stop it and try again."
    say "removing $1, the data of a $DEV that was removed"
    rm -rf -- "$1"
}

# The pids of the processes that work in a folder.
processes_in() {
    local entry
    for entry in /proc/[0-9]*; do
        if [[ $(readlink "$entry/cwd" 2>/dev/null) == "$1" ]]; then printf '%s ' "${entry#/proc/}"; fi
    done
}

nobody_in() {
    [[ -z $(processes_in "$1") ]]
}

# After a kill -9 of the postmaster its children take a moment to notice; only then is its lock file a lie for certain.
clear_postgres_remains() {
    local data
    data=$(realpath "$POSTGRES_DATA")
    wait_until 30 nobody_in "$data" || fail "a PostgreSQL process still works in $data (pids: $(processes_in "$data"))" \
        "though the one in $PID_DIR/postgres.pid is gone; stop it and try again."
    rm -f "$data/postmaster.pid"
}

create_postgres_data() { # BIN
    local password_file
    password_file=$(mktemp)
    secret POSTGRES_PASSWORD_postgres random_hex 16 >"$password_file"
    if is_root; then chown postgres "$password_file"; fi
    "${AS_POSTGRES[@]}" "$1/initdb" -D "$(realpath "$POSTGRES_DATA")" -U postgres --auth=scram-sha-256 \
        --pwfile="$password_file" --encoding=UTF8 --locale=C >"$LOG_DIR/initdb.log" 2>&1 || {
        rm -f "$password_file"
        # A half-made folder would be taken for a whole one next time.
        find -H "$POSTGRES_DATA" -mindepth 1 -delete
        tail -n 20 "$LOG_DIR/initdb.log" >&2
        fail "initdb could not create $POSTGRES_DATA; its output is above."
    }
    rm -f "$password_file"
}

# The services' user owns its database and is no superuser, as in production.
create_database() {
    [[ -z $(postgres_sql postgres "select 1 from pg_database where datname = 'lokroom'") ]] || return 0
    postgres_sql postgres <<SQL
do \$\$ begin
    if not exists (select from pg_roles where rolname = 'lokroom') then
        create role lokroom login password '$(secret POSTGRES_PASSWORD_lokroom random_hex 16)';
    end if;
end \$\$;
create database lokroom owner lokroom;
SQL
}
