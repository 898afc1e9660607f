# The ranks of a command of this folder, by `deepspeed`; read by pretrain.sh and finetune.sh, which bash and Python both run. What it
# takes from the environment:
#   NUM_RANKS        ranks on this machine; default: one for each GPU (of CUDA_VISIBLE_DEVICES, if set), or 2 without a GPU
#   HOSTFILE         several machines, see hostfile.example; NUM_RANKS then limits the ranks of each
#   MASTER_PORT      where the ranks meet; default: a port that is free here, so that two runs on a machine do not collide
#   MASTER_ADDR      with HOSTFILE: address of its first machine; default: what that machine says of itself
#   OMP_NUM_THREADS  threads of a rank; default: its share of the cores. PyTorch takes all cores for each, and they fight
#
# SIGTERM, SIGINT (Ctrl-C) and SIGHUP (a closed terminal) let training save and end with exit code 75; a second one kills it.
# `deepspeed` alone does less: killed itself it leaves the ranks running; its launcher, asked to end, gives a rank 30 seconds and
# hides its exit code. So bash stays, keeps the launcher in a process group that Ctrl-C does not reach, and tells the ranks alone:
# they end, and their code comes out. On the machines of a HOSTFILE they are out of reach: 30 seconds there, and exit code 1.
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ -d "$project/.venv/bin" ] && PATH="$project/.venv/bin:$PATH"
gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l)
free_port='import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
options=(--log_level error --master_port "${MASTER_PORT:-$(python3 -c "$free_port")}")
if [ -n "$HOSTFILE" ]; then
    options+=(--hostfile "$HOSTFILE" ${MASTER_ADDR:+--master_addr "$MASTER_ADDR"} ${NUM_RANKS:+--num_accelerators "$NUM_RANKS"})
else
    # deepspeed takes the GPUs of CUDA_VISIBLE_DEVICES as long as it is not told a number
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
    else  # ranks are the children of the only child of `deepspeed`; until there are any, nothing can be lost
        pkill -TERM --parent "$(pgrep --delimiter , --parent "$launcher")" 2>/dev/null || kill -TERM -- "-$launcher"
    fi
}
set -m  # a process group for each job
deepspeed "${options[@]}" "$0" "$@" &
launcher=$!
trap stop TERM INT HUP
again=yes
while [ -n "$again" ]; do  # a signal ends `wait`, not the launcher
    again=
    wait "$launcher"
    code=$?
done
exit "$code"
