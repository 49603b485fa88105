# What every lm-eval stage does in each of its roles; sourced by its script, which sets `profile`.
# serve: answers for what stage gpt-$profile trained     score: asks it, through lm-eval
source "$(dirname "${BASH_SOURCE[0]}")/stage.sh"

case $role in
  serve) serve ;;
  score)
    # Prepared files only; lm-eval and datasets read these when they are imported.
    export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 HF_HOME="${TMPDIR:-/tmp}/hf" TQDM_DISABLE=1
    score scoring.lm_eval_stage "${lm_eval[@]}"
    ;;
  *)
    echo "ERROR: unknown role '$role'. Use serve or score." >&2
    exit 2
    ;;
esac
