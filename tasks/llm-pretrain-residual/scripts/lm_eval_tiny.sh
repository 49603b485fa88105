#!/usr/bin/env bash
# Scores the checkpoint of stage gpt-tiny on this task's own multiple-choice items.
profile=tiny
source "$(dirname "${BASH_SOURCE[0]}")/lm_eval_stage.sh"
