#!/usr/bin/env bash
# Stage gpt-345m, on the GPUs in HARNESS_GPUS, one process each.
# Roles: `reference` measures the unedited file's first steps, `preflight` the edited one's beside
# them, on one of the GPUs; `feed` serves tokens to `run`, which trains; `serve`
# answers for what was trained, to `score`. Arguments after the role go to the settings.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
role=${1:-}
shift || true
source "$here/settings_345m.sh"

# -P: the current folder holds the edited code and stays off the path.
case $role in
  reference) exec python -P "$root/nanoGPT/preflight.py" --reference "${settings[@]}" "$@" ;;
  preflight) exec python -P "$root/nanoGPT/preflight.py" "${settings[@]}" "$@" ;;
  feed)
    export PYTHONPATH="$root/nanoGPT:${PYTHONPATH:-}"
    exec python -P -m feeder "${settings[@]}" "$@"
    ;;
  run)
    if [ -z "${HARNESS_GPUS:-}" ]; then
      echo "ERROR: this stage trains on GPUs and was given none. Use the tiny profile on a CPU." >&2
      exit 1
    fi
    export CUDA_VISIBLE_DEVICES=$HARNESS_GPUS
    # The run's own copy of what the unedited file compiled; it dies with the run.
    if [ -n "${HARNESS_CACHE:-}" ]; then
      export TORCHINDUCTOR_CACHE_DIR=$HARNESS_CACHE/compile TRITON_CACHE_DIR=$HARNESS_CACHE/triton
    fi
    IFS=, read -ra gpus <<<"$HARNESS_GPUS"
    if [ "${#gpus[@]}" -gt 1 ]; then
      export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}  # torchrun warns of a choice of its own
      exec python -m torch.distributed.run --standalone --nproc_per_node="${#gpus[@]}" \
        nanoGPT/custom_pretrain.py "${settings[@]}" "$@"
    fi
    exec python nanoGPT/custom_pretrain.py "${settings[@]}" "$@"
    ;;
  serve)
    export CUDA_VISIBLE_DEVICES=${HARNESS_GPUS%%,*}
    exec python -P "$root/nanoGPT/model_server.py" -- "${settings[@]}"
    ;;
  score)
    export CUDA_VISIBLE_DEVICES=${HARNESS_GPUS%%,*}
    export PYTHONPATH="$root/nanoGPT:${PYTHONPATH:-}"
    exec python -P -m scoring.perplexity --checkpoint gpt-345m \
      --max-extra="$max_extra" --audited=4096 -- "${settings[@]}"
    ;;
  *)
    echo "ERROR: unknown role '$role'. Use reference, preflight, feed, run, serve or score." >&2
    exit 2
    ;;
esac
