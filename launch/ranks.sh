# Starts the ranks of a command of this folder by `deepspeed`. pretrain.sh and finetune.sh, which bash and Python both run, read
# this file. It uses these environment variables:
#   NUM_RANKS        ranks on this machine; default: one per GPU (of CUDA_VISIBLE_DEVICES, if set), or 2 without a GPU
#   HOSTFILE         several machines, see hostfile.example; NUM_RANKS then limits the ranks of each machine
#   LAUNCHER         with HOSTFILE: pdsh (default), which needs ssh and pdsh, or openmpi, which needs mpirun
#   MASTER_PORT      port at which the ranks meet; default: a free port of this machine, so that two runs do not collide
#   MASTER_ADDR      with HOSTFILE: address of its first machine; default: what that machine reports (openmpi: its name)
#   OMP_NUM_THREADS  threads of a rank; default: its share of the cores. PyTorch would use all cores for every rank, which is slow
#
# After SIGTERM, SIGINT (Ctrl-C) or SIGHUP (a closed terminal) training saves and ends with exit code 75; a second Ctrl-C or
# SIGTERM kills it on all machines. `deepspeed` alone does less: when it is killed its ranks keep running; when its launcher is
# asked to end, it gives a rank 30 seconds and hides the rank's exit code. So bash keeps running, with the launcher in a process
# group that Ctrl-C does not reach, and signals only the ranks, on every machine: they end, and bash returns their code.
# docs/reference/stopping.md lists what happens in each case.
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ -d "$project/.venv/bin" ] && PATH="$project/.venv/bin:$PATH"
python=$(command -v python3)
gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l)
free_port='import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
port=${MASTER_PORT:-$("$python" -c "$free_port")}
command=(deepspeed --log_level error --master_port "$port")
hosts=
if [ -n "$HOSTFILE" ]; then
    hosts=$(sed 's/#.*//' "$HOSTFILE" | awk 'NF { print $1 }' | paste -sd " ")
    # A machine without power says no goodbye, so ssh asks whether it is alive.
    ssh_options="-o BatchMode=yes -o ConnectTimeout=15 -o ServerAliveInterval=15 -o ServerAliveCountMax=4"
fi
case $HOSTFILE:${LAUNCHER:=pdsh} in
:pdsh)
    # deepspeed uses the GPUs of CUDA_VISIBLE_DEVICES only when it is not given a number
    visible=$([ "$gpus" -gt 0 ] && [ -z "$NUM_RANKS" ] && echo "$CUDA_VISIBLE_DEVICES")
    [ -n "$visible" ] && gpus=$(echo "$visible" | tr , " " | wc -w)
    ranks=${NUM_RANKS:-$([ "$gpus" -gt 0 ] && echo "$gpus" || echo 2)}
    [ -n "$visible" ] || command+=(--num_accelerators "$ranks")
    share=$(($(nproc) / ranks))
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((share > 0 ? share : 1))}
    ;;
?*:pdsh)
    # deepspeed would start the ranks of a single machine here, whatever its name
    command+=(--hostfile "$HOSTFILE" --force_multi)
    command+=(${MASTER_ADDR:+--master_addr "$MASTER_ADDR"} ${NUM_RANKS:+--num_accelerators "$NUM_RANKS"})
    export PDSH_SSH_ARGS_APPEND="$ssh_options $PDSH_SSH_ARGS_APPEND"
    ;;
?*:openmpi)
    # Not `deepspeed --launcher openmpi`, which only builds this command, and ends with 0 when mpirun is killed. Once a rank has
    # ended with an error, mpirun gives the others twice as many seconds, not one as without the option, and ends itself then.
    command=(mpirun --hostfile "$HOSTFILE" ${NUM_RANKS:+--map-by "ppr:$NUM_RANKS:node"})
    command+=(--mca odls_base_sigkill_timeout 15)
    command+=(-x MASTER_ADDR="${MASTER_ADDR:-${hosts%% *}}" -x MASTER_PORT="$port")
    for name in $(compgen -e | grep -E '^(NCCL|PYTHON|UCX|OMP_NUM)'); do command+=(-x "$name"); done
    command+=("$python" -u)
    ;;
*)
    echo "error: LAUNCHER is $LAUNCHER and HOSTFILE is ${HOSTFILE:-not set}; expected pdsh, or openmpi with a HOSTFILE" >&2
    exit 2
    ;;
esac

# Stop the ranks on all machines, by TERM or KILL. Returns 1 when there were any, 255 when a machine did not answer.
stop_ranks() {
    local stop=("$python" "$project/launch/stop_ranks.py" "$port" "$1") result=0 asked=()
    [ -n "$hosts" ] || { "${stop[@]}"; return; }
    for host in $hosts; do
        ssh -n $ssh_options "$host" "${stop[@]}" 2> /dev/null &
        asked+=($!)
    done
    for one in "${asked[@]}"; do
        wait "$one" || result=$(($? > result ? $? : result))
    done
    return "$result"
}
# Ask the ranks to stop for as long as their launcher lives: some may just be starting.
keep_asking() {
    while kill -0 "$launcher" 2> /dev/null; do
        stop_ranks TERM
        sleep 1
    done
}
# Notice signals from now on.
listen() {
    trap 'react stop' TERM INT
    trap 'react hangup' HUP  # a closed terminal sends two
}
# Start a function in the background, which a signal to all processes of the terminal does not reach.
undisturbed() {
    trap '' TERM INT HUP
    "$@" &
    listen
}
# Do what a signal asks for.
react() {
    if [ -z "$launcher" ]; then
        early=$1
    elif [ -z "$asking" ]; then
        echo "asked to stop: all ranks save; a second Ctrl-C or SIGTERM, at least two seconds later, kills them" >&5
        undisturbed keep_asking 2>&5
        asking=$! since=$SECONDS
    elif [ "$1" = stop ] && [ $((SECONDS - since)) -ge 2 ]; then  # some senders, such as `timeout`, send one twice
        kill -KILL "$asking"
        undisturbed kill_all 2> /dev/null
        killing=$!
    fi
}
kill_all() {
    stop_ranks KILL
    kill -KILL -- "-$launcher"
}
# Wait for a process; `code` is its exit code. A signal interrupts `wait`, which then may return the signal's number, even when it
# is called again at once; so the code is asked for when the process has ended and no signal can come.
await() {
    while kill -0 "$1" 2> /dev/null; do
        { wait "$1"; } 2> /dev/null
    done
    trap '' TERM INT HUP
    { wait "$1"; } 2> /dev/null
    code=$?
    listen
}

# `tee` passes on what the launcher writes. It keeps reading when the terminal or the pipe behind it has gone: a write would end the
# launcher, ssh or mpirun then.
trap '' TERM INT HUP
exec 3> >(exec tee --output-error=warn /dev/null 2> /dev/null)
relays=$!
exec 4> >(exec tee --output-error=warn /dev/null >&2 2> /dev/null)
relays+=" $!"

launcher= early= asking= killing=
listen
trap : PIPE  # of this script's own output
set -m  # a process group for the launcher
"${command[@]}" "$0" "$@" < /dev/null >&3 2>&4 3>&- 4>&- &
launcher=$!
set +m
exec 3>&- 4>&- 5>&2  # `await` hides what bash writes of ended processes, but not what this script writes
[ -z "$early" ] || react "$early"
await "$launcher"
ended=$code
if [ -n "$asking" ]; then
    await "$asking"  # until no rank is left on any machine
    # SIGTERM itself ended ranks that were just starting and had nothing to save
    case $ended in 143 | 241) ended=75 ;; esac
else
    # A launcher that was killed leaves its ranks behind, and `deepspeed` then ends with 0.
    undisturbed stop_ranks TERM
    await $!
    if [ "$code" -eq 1 ]; then
        echo "the launcher ended with code $ended before its ranks, which were asked to save; the same command resumes" >&2
        [ "$ended" -ne 0 ] || ended=74
    fi
fi
[ -z "$killing" ] || { wait "$killing"; kill -KILL $relays; } 2> /dev/null
wait $relays
exit "$ended"
