#!/usr/bin/env bash
# Stage gpt-345m. `run` trains on the GPUs in HARNESS_GPUS, one process each, with the settings
# that the training file has by default; arguments after the role go to the training file.
# `preflight` measures its first steps on one of the GPUs; `score` scores the checkpoint.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
role=${1:-}
shift || true

settings=() # the training file's defaults are this profile's

case $role in
  run)
    if [ -z "${HARNESS_GPUS:-}" ]; then
      echo "ERROR: this stage trains on GPUs and was given none. Use the tiny profile on a CPU." >&2
      exit 1
    fi
    export CUDA_VISIBLE_DEVICES=$HARNESS_GPUS
    IFS=, read -ra gpus <<<"$HARNESS_GPUS"
    if [ "${#gpus[@]}" -gt 1 ]; then
      export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}  # torchrun warns of a choice of its own
      exec torchrun --standalone --nproc_per_node="${#gpus[@]}" nanoGPT/custom_pretrain.py "${settings[@]}" "$@"
    fi
    exec python nanoGPT/custom_pretrain.py "${settings[@]}" "$@"
    ;;
  preflight)
    # -P: the current folder holds the edited code and stays off the path.
    exec python -P "$root/nanoGPT/preflight.py" "${settings[@]}" "$@"
    ;;
  score)
    # -P: the current folder was within reach of the trained code and stays off the path.
    export PYTHONPATH="$root/nanoGPT"
    exec python -P -m scoring.perplexity
    ;;
  *)
    echo "ERROR: unknown role '$role'. Use preflight, run or score." >&2
    exit 2
    ;;
esac
