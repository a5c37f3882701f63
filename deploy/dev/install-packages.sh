#!/usr/bin/env bash
# As root: installs the packages named, without starting or restarting any server, nor making a database cluster.
set -euo pipefail

# Services that the packages would start. A masked unit is not started; one that was masked or overridden by the
# administrator already is left as it is.
units=(rabbitmq-server.service epmd.service epmd.socket postgresql.service)
masked=()
cluster_rule=/etc/postgresql-common/createcluster.d/lokroom-dev.conf

restore() {
    rm -f "$cluster_rule"
    for unit in "${masked[@]}"; do
        systemctl --quiet unmask "$unit"
    done
    # What is new here would start with the machine from now on.
    for unit in "${new_units[@]}"; do
        if [[ -d /run/systemd/system ]]; then
            systemctl --quiet disable "$unit" || true
        elif [[ -e /etc/init.d/${unit%.*} ]]; then
            update-rc.d "${unit%.*}" disable || true
        fi
    done
}
trap restore EXIT

is_installed() {
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

new_units=()
is_installed rabbitmq-server || new_units+=(rabbitmq-server.service)
is_installed erlang-base || new_units+=(epmd.service epmd.socket)

if [[ -d /run/systemd/system ]]; then
    for unit in "${units[@]}"; do
        if [[ ! -e /etc/systemd/system/$unit ]]; then
            systemctl --quiet mask "$unit"
            masked+=("$unit")
        fi
    done
fi
mkdir -p "${cluster_rule%/*}"
echo 'create_main_cluster = false' >"$cluster_rule"

export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 # needrestart would restart other services
export RUNLEVEL=1 PREVLEVEL=N                               # invoke-rc.d without systemd: not the runlevel for servers
install=(apt-get install -y -q --no-install-recommends --no-upgrade -o DPkg::Lock::Timeout=300)
"${install[@]}" "$@" || {
    apt-get update -q
    "${install[@]}" "$@"
}
