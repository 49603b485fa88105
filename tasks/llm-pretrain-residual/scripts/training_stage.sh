# What every training stage does in each of its roles; sourced by its script, which sets `profile`.
# Arguments after the role go to the settings.
#
# reference: measures the unedited file's first steps    preflight: the edited one's, beside them
# feed: serves tokens to `run`                           run: trains, one process a GPU
# serve: answers for what was trained                    score: asks it, and computes the metrics
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
role=${1:-}
shift || true
source "$here/settings_$profile.sh"
# Threads that wait by spinning stand still where the cores are shared: 15 times slower.
export OMP_WAIT_POLICY=PASSIVE

if [ "$device" = cuda ] && [ -z "${HARNESS_GPUS:-}" ] && [ "$role" = run ]; then
  echo "ERROR: this stage trains on GPUs and was given none. Use the tiny profile on a CPU." >&2
  exit 1
fi
IFS=, read -ra gpus <<<"${HARNESS_GPUS:-}"

# -P: the current folder holds the edited code and stays off the path.
case $role in
  reference) exec python -P "$root/nanoGPT/preflight.py" --reference "${settings[@]}" "$@" ;;
  preflight) exec python -P "$root/nanoGPT/preflight.py" "${settings[@]}" "$@" ;;
  feed)
    export PYTHONPATH="$root/nanoGPT:${PYTHONPATH:-}"
    exec python -P -m feeder "${settings[@]}" "$@"
    ;;
  run)
    if [ "$device" = cuda ]; then
      export CUDA_VISIBLE_DEVICES=$HARNESS_GPUS
      # The run's own copy of what the unedited file compiled; it dies with the run.
      if [ -n "${HARNESS_CACHE:-}" ]; then
        export TORCHINDUCTOR_CACHE_DIR=$HARNESS_CACHE/compile TRITON_CACHE_DIR=$HARNESS_CACHE/triton
      fi
    fi
    if [ "${#gpus[@]}" -gt 1 ]; then
      export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}  # torchrun warns of a choice of its own
      exec python -m torch.distributed.run --standalone --nproc_per_node="${#gpus[@]}" \
        nanoGPT/custom_pretrain.py "${settings[@]}" "$@"
    fi
    exec python nanoGPT/custom_pretrain.py "${settings[@]}" "$@"
    ;;
  serve) source "$here/serve.sh" ;;
  score)
    export CUDA_VISIBLE_DEVICES=${gpus[0]:-}
    export PYTHONPATH="$root/nanoGPT:${PYTHONPATH:-}"
    exec python -P -m scoring.perplexity --checkpoint "gpt-$profile" "${scoring[@]}" \
      --max-extra="$max_extra" --audited="$audited" -- "${settings[@]}" "$@"
    ;;
  *)
    echo "ERROR: unknown role '$role'. Use reference, preflight, feed, run, serve or score." >&2
    exit 2
    ;;
esac
