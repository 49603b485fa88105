# What every training stage does in each of its roles; sourced by its script, which sets `profile`.
# Arguments after the role go to the settings.
#
# reference: measures the unedited file's first steps    preflight: the edited one's, beside them
# feed: serves tokens to `run`                           run: trains, one process a GPU
# serve: answers for what was trained                    score: asks it, and computes the metrics
source "$(dirname "${BASH_SOURCE[0]}")/stage.sh"

if [ "$device" = cuda ] && [ "${#gpus[@]}" = 0 ] && [ "$role" = run ]; then
  echo "ERROR: this stage trains on GPUs and was given none. Use the tiny profile on a CPU." >&2
  exit 1
fi

case $role in
  reference) exec python -P -m preflight --reference "${settings[@]}" "$@" ;;
  preflight) exec python -P -m preflight "${settings[@]}" "$@" ;;
  feed) exec python -P -m feeder "${settings[@]}" "$@" ;;
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
  serve) serve ;;
  score) score scoring.perplexity "${scoring[@]}" ;;
  *)
    echo "ERROR: unknown role '$role'. Use reference, preflight, feed, run, serve or score." >&2
    exit 2
    ;;
esac
