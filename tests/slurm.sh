#!/usr/bin/env bash
# A Slurm cluster of one node with two slots, for the tests: keys, ports and files of its own, and no systemd.
#   tests/slurm.sh start FOLDER    set it up, or bring back what is down of it
#   tests/slurm.sh stop FOLDER     end it and whatever runs on it
# It needs root and Debian's slurm-wlm and munge. Outside FOLDER there is one link, /etc/slurm/slurm.conf: the jobs of
# Snakemake drop SLURM_CONF from their environment.
set -euo pipefail
folder=$(realpath -m "${2:?usage: tests/slurm.sh start|stop FOLDER}")
export PATH=$PATH:/usr/sbin
conf=/etc/slurm/slurm.conf
refuse() { echo "$*" >&2; exit 2; }
[[ $(id -u) == 0 ]] || refuse "a cluster needs root"
for program in munged slurmctld slurmd sbatch; do
    command -v $program > /dev/null || refuse "$program is not installed. Install it: apt-get install slurm-wlm munge"
done
[[ ! -e $conf || $(realpath $conf) == "$folder/slurm.conf" ]] || refuse "$conf is that of another cluster"

pid() { cat "$folder/$1.pid" 2> /dev/null || true; }
runs() { [[ -n $(pid "$1") && $(cat "/proc/$(pid "$1")/comm" 2> /dev/null) == "$1" ]]; }
wait_for() { for _ in {1..150}; do "$@" &> /dev/null && return; sleep 0.2; done; echo "waited in vain: $*" >&2; return 1; }
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'; }
empty() { [[ -z $(squeue --noheader) ]]; }
idle() { [[ $(sinfo --noheader --format %T) =~ ^(idle|mixed|allocated)$ ]]; }

configure() {
    mkdir -p "$folder"/{state,spool}
    chmod 755 "$folder"
    head -c 1024 /dev/urandom > "$folder/munge.key"
    chmod 600 "$folder/munge.key"
    cat > "$folder/slurm.conf" <<END
ClusterName=tests
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=root
AuthInfo=socket=$folder/munged.socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
# a job that takes more memory than it asked for is killed
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
JobAcctGatherParams=OverMemoryKill
SlurmdParameters=config_overrides
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=2 RealMemory=16000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
}

start() {
    [[ -e $folder/slurm.conf ]] || configure
    mkdir -p /etc/slurm
    ln -sf "$folder/slurm.conf" $conf
    runs munged || munged --force --num-threads=10 --socket="$folder/munged.socket" --key-file="$folder/munge.key" \
        --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" --seed-file="$folder/munged.seed" 2> /dev/null
    runs slurmctld || slurmctld
    runs slurmd || slurmd
    wait_for idle
}

stop() {
    if runs slurmctld; then
        scancel --user root
        wait_for empty || true  # slurmd ends what is left
    fi
    for program in slurmd slurmctld munged; do
        ! runs $program || kill "$(pid $program)"
        wait_for eval "! runs $program"
    done
    rm -rf "$folder" $conf
}

"$1"
