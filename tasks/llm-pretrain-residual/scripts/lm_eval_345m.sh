#!/usr/bin/env bash
# Scores the checkpoint of stage gpt-345m on lm-eval's own tasks, from prepared data sets.
profile=345m
source "$(dirname "${BASH_SOURCE[0]}")/lm_eval_stage.sh"
