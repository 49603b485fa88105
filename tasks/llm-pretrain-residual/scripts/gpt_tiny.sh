#!/usr/bin/env bash
# Stage gpt-tiny. `run` trains a 1.3M model on the CPU, in about 40 s on two cores;
# arguments after the role go to the training file. `preflight` takes its first step;
# `score` scores the checkpoint.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
role=${1:-}
shift || true

settings=(
  --device=cpu --bfloat16=false --compile=false --vocab_size=4096
  --n_layer=4 --n_head=4 --n_embd=128 --block_size=128
  --global_batch=8 --micro_batch=8 --max_iters=300 --learning_rate=3e-3
  --eval_interval=100 --eval_windows=96 --save_interval=100
)

case $role in
  run)
    # Threads that wait by spinning stand still where the cores are shared: 15 times slower.
    export OMP_WAIT_POLICY=PASSIVE
    exec python nanoGPT/custom_pretrain.py "${settings[@]}" "$@"
    ;;
  preflight)
    # -P: the current folder holds the edited code and stays off the path.
    export OMP_WAIT_POLICY=PASSIVE
    exec python -P "$root/nanoGPT/preflight.py" "${settings[@]}" "$@"
    ;;
  score)
    # -P: the current folder was within reach of the trained code and stays off the path.
    export PYTHONPATH="$root/nanoGPT" OMP_WAIT_POLICY=PASSIVE
    exec python -P -m scoring.perplexity --max-windows 200
    ;;
  *)
    echo "ERROR: unknown role '$role'. Use preflight, run or score." >&2
    exit 2
    ;;
esac
