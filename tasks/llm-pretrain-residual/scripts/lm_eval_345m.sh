#!/usr/bin/env bash
# Scores the checkpoint of stage gpt-345m on lm-eval's own tasks, from prepared data sets.
set -euo pipefail

if [ "${1:-}" != score ]; then
    echo "ERROR: this stage has only the role score, not '${1:-}'. Call it with score." >&2
    exit 2
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
# Prepared files only; lm-eval and datasets read these when they are imported.
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 HF_HOME="$HARNESS_DATA/hf"
export TQDM_DISABLE=1 PYTHONPATH="$root/nanoGPT"
# -P: the current folder was within reach of the trained code and stays off the path.
exec python -P -m scoring.lm_eval_stage --checkpoint gpt-345m \
    --tasks arc_easy,hellaswag,piqa,winogrande --hidden piqa,winogrande
