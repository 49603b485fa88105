#!/usr/bin/env bash
# Scores the checkpoint of stage gpt-smoke on this task's own multiple-choice items.
profile=smoke
source "$(dirname "${BASH_SOURCE[0]}")/lm_eval_stage.sh"
