# To be sourced by a job of SLURM: queues the job again, unless that would be for ever or is not wanted.
#   queue_again SAID CODE: prints what was SAID and why, if the job is not queued again; then ends it with CODE
queue_again() {
    local restarts=${SLURM_RESTART_COUNT:-0} job=$SLURM_JOB_ID state
    # The number of one of an array's jobs is that of the whole array, too.
    [ -n "${SLURM_ARRAY_TASK_ID:-}" ] && job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
    state=$(squeue --noheader --jobs "$job" --format %T)
    if [ "$restarts" -ge "${MAX_RESTARTS:-100}" ]; then
        echo "$1; not queued again after $restarts restarts (MAX_RESTARTS); the same sbatch command continues" >&2
    elif [ "$state" != RUNNING ]; then
        local again="SLURM queues it again after a preemption or a lost node, but not when it was cancelled"
        echo "$1; the job is ${state:-gone}: $again" >&2
    else
        scontrol requeue "$job" || echo "$1; could not be queued again; the same sbatch command continues" >&2
    fi
    exit "$2"
}
