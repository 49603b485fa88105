#!/usr/bin/env bash
# Scores the checkpoint of stage gpt-tiny on this task's own multiple-choice items.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
role=${1:-}
source "$here/settings_tiny.sh"
# Threads that wait by spinning stand still where the cores are shared.
export OMP_WAIT_POLICY=PASSIVE

# -P: the current folder was within reach of the trained code and stays off the path.
case $role in
  serve) exec python -P "$root/nanoGPT/model_server.py" -- "${settings[@]}" ;;
  score)
    # Prepared files only; lm-eval and datasets read these when they are imported.
    export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 HF_HOME="$HARNESS_DATA/hf" TQDM_DISABLE=1
    export PYTHONPATH="$root/nanoGPT:${PYTHONPATH:-}"
    exec python -P -m scoring.lm_eval_stage --checkpoint gpt-tiny \
      --include "$root/tasks/llm-pretrain-residual/evals" \
      --tasks agreement,word_order,fitting_word --hidden fitting_word \
      --max-extra="$max_extra" --audited=1024 -- "${settings[@]}"
    ;;
  *)
    echo "ERROR: unknown role '$role'. Use serve or score." >&2
    exit 2
    ;;
esac
