# Starts the ranks of a command of this folder by `deepspeed`. pretrain.sh and finetune.sh, which bash and Python both run, read
# this file. It uses these environment variables:
#   NUM_RANKS        ranks on this machine; default: one per GPU (of CUDA_VISIBLE_DEVICES, if set), or 2 without a GPU
#   HOSTFILE         several machines, see hostfile.example; NUM_RANKS then limits the ranks of each machine
#   MASTER_PORT      port at which the ranks meet; default: a free port of this machine, so that two runs do not collide
#   MASTER_ADDR      with HOSTFILE: address of its first machine; default: what that machine reports
#   OMP_NUM_THREADS  threads of a rank; default: its share of the cores. PyTorch would use all cores for every rank, which is slow
#
# After SIGTERM, SIGINT (Ctrl-C) or SIGHUP (a closed terminal) training saves and ends with exit code 75; a second signal kills
# it. `deepspeed` alone does less: when it is killed its ranks keep running, and when its launcher is asked to end, it gives a
# rank 30 seconds and hides the rank's exit code. So bash keeps running, with the launcher in a process group that Ctrl-C does not
# reach, and signals only the ranks: they end, and bash returns their code. Ranks on the machines of a HOSTFILE cannot be
# signalled from here: they get 30 seconds, and the exit code is 1.
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ -d "$project/.venv/bin" ] && PATH="$project/.venv/bin:$PATH"
gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l)
free_port='import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
options=(--log_level error --master_port "${MASTER_PORT:-$(python3 -c "$free_port")}")
if [ -n "$HOSTFILE" ]; then
    options+=(--hostfile "$HOSTFILE" ${MASTER_ADDR:+--master_addr "$MASTER_ADDR"} ${NUM_RANKS:+--num_accelerators "$NUM_RANKS"})
else
    # deepspeed uses the GPUs of CUDA_VISIBLE_DEVICES only when it is not given a number
    visible=$([ "$gpus" -gt 0 ] && [ -z "$NUM_RANKS" ] && echo "$CUDA_VISIBLE_DEVICES")
    [ -n "$visible" ] && gpus=$(echo "$visible" | tr , " " | wc -w)
    ranks=${NUM_RANKS:-$([ "$gpus" -gt 0 ] && echo "$gpus" || echo 2)}
    [ -n "$visible" ] || options+=(--num_accelerators "$ranks")
    share=$(($(nproc) / ranks))
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((share > 0 ? share : 1))}
fi
stop() {
    trap 'kill -KILL -- "-$launcher"' TERM INT HUP
    again=yes
    if [ -n "$HOSTFILE" ]; then
        kill -TERM "$launcher"
    else  # ranks are the children of the only child of `deepspeed`; before they exist nothing can be lost
        pkill -TERM --parent "$(pgrep --delimiter , --parent "$launcher")" 2>/dev/null || kill -TERM -- "-$launcher"
    fi
}
set -m  # a process group for each job
deepspeed "${options[@]}" "$0" "$@" &
launcher=$!
trap stop TERM INT HUP
again=yes
while [ -n "$again" ]; do  # a signal ends `wait`, but not the launcher
    again=
    wait "$launcher"
    code=$?
done
exit "$code"
