#!/usr/bin/env bash
# Stage lm-eval of every profile: as llm-pretrain-residual scores the same file.
profile=$HARNESS_PROFILE
# Parameters and buffers that a model may hold besides the unedited one's, as a share of them.
max_extra=0.02
source "$(dirname "${BASH_SOURCE[0]}")/../../llm-pretrain-residual/scripts/lm_eval_stage.sh"
