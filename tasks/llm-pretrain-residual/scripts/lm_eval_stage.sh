# What every lm-eval stage does in each of its roles; sourced by its script, which sets `profile`.
# serve: answers for what stage gpt-$profile trained     score: asks it, through lm-eval
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
role=${1:-}
shift || true
source "$here/settings_$profile.sh"
# Threads that wait by spinning stand still where the cores are shared.
export OMP_WAIT_POLICY=PASSIVE
IFS=, read -ra gpus <<<"${HARNESS_GPUS:-}"

case $role in
  serve) source "$here/serve.sh" ;;
  score)
    # Prepared files only; lm-eval and datasets read these when they are imported.
    export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 HF_HOME="$HARNESS_DATA/hf" TQDM_DISABLE=1
    export CUDA_VISIBLE_DEVICES=${gpus[0]:-}
    export PYTHONPATH="$root/nanoGPT:${PYTHONPATH:-}"
    # -P: the current folder was within reach of the trained code and stays off the path.
    exec python -P -m scoring.lm_eval_stage --checkpoint "gpt-$profile" "${lm_eval[@]}" \
      --max-extra="$max_extra" --audited="$audited" -- "${settings[@]}"
    ;;
  *)
    echo "ERROR: unknown role '$role'. Use serve or score." >&2
    exit 2
    ;;
esac
