#!/usr/bin/env bash
# Everything that a GPU has to say, in at most ten minutes: parity, speed of attention, encoder and training, and a compiled run
# against an eager one. Each part has a time limit of its own, and a part that fails does not stop the others.
#
#   bash tests/bench/gpu.sh [--small] [OUTPUT]      OUTPUT: a folder; default: tests/bench/results/gpu
#
# --small tries the script on a machine without a GPU: few rounds of small problems.
# WHEELS=FOLDER: packages that the machine's Python lacks, as wheels; they are installed into an environment that is thrown away.
# CORPUS=FOLDER: what the compiled and the eager run train on; default: bench-data/corpus (make bench-data).
# PARTS=NAME,NAME: these parts alone, where a call may not take ten minutes: parity, bf16, attention, encoder, pretrain,
# pretrain_compiled, compiled.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
small=
if [ "${1:-}" = --small ]; then small=1; shift; fi
output=${1:-tests/bench/results/gpu}
corpus=${CORPUS:-bench-data/corpus}
mkdir -p "$output"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

python=${PYTHON:-python3}
if [ -n "${WHEELS:-}" ]; then
    "$python" -m venv --system-site-packages "$scratch/env"
    python=$scratch/env/bin/python
    "$python" -m pip install --quiet --no-index --no-deps "$WHEELS"/*.whl || exit 1
fi
export TRITON_DEFAULT_FP_FUSION=1 PYTHONUNBUFFERED=1

failed=()
part() {  # part NAME SECONDS COMMAND...: run a part with a time limit
    local name=$1 limit=$2 begin=$SECONDS
    shift 2
    case ",${PARTS:-$name}," in *",$name,"*) ;; *) return ;; esac
    echo "== $name (at most $limit s)" >&2
    timeout --kill-after 10 "$limit" "$@" || failed+=("$name")
    echo "== $name: $((SECONDS - begin)) s" >&2
}

if [ -n "$small" ]; then
    parity="34 1" attention="--batch 1 --rounds 1 --kinds [padded]" encoder="--rounds 2 --batches [1] --sides [32] --dtypes [float32]"
    pretrain="--rounds 2 --steps 1" stages="[zero1]" compiled="--steps 10 --batch 4"
    command -v nvidia-smi >/dev/null || export TRITON_INTERPRET=1
else
    parity="0 12" attention="--rounds 5" encoder="--rounds 3 --batches [32] --frames [16] --sides [128,224] --dtypes [bfloat16]"
    pretrain="--rounds 3 --steps 4" stages="[zero1,zero2,zero3]" compiled="--steps 3000"
fi
# What counts most comes first. Each benchmark writes what it has after each of its results, so a time limit loses one of them.
# shellcheck disable=SC2086  # the settings are words
{
    part parity 50 "$python" -m tests.support.kernel_parity $parity >"$output/parity.jsonl"
    [ -n "$small" ] || part bf16 40 "$python" -m tests.support.kernel_parity $parity bfloat16 >"$output/parity_bf16.jsonl"
    unset TRITON_INTERPRET
    part encoder 120 "$python" tests/bench/bench_encoder.py $encoder --output "$output/encoder.json"
    part pretrain 110 "$python" tests/bench/bench_pretrain.py $pretrain --stages $stages --corpus "$scratch/corpus" \
        --output "$output/pretrain.json"
    part attention 100 "$python" tests/bench/bench_attention.py $attention --output "$output/attention.json"
    part pretrain_compiled $((${small:-0} ? 240 : 60)) "$python" tests/bench/bench_pretrain.py $pretrain --stages '[zero1]' --compile true \
        --corpus "$scratch/corpus" --output "$output/pretrain_compiled.json"
    part compiled $((${small:-0} ? 240 : 110)) "$python" tests/bench/bench_compiled.py $compiled --data "$corpus" --output "$output/compiled.json"
}
echo "== ${SECONDS} s in all; results: $(cd "$output" && ls | tr '\n' ' ')"
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}"
    exit 1
fi
