#!/usr/bin/env bash
# Stage gpt-124m: GPT-2 small, on the GPUs in HARNESS_GPUS, one process each.
profile=124m
source "$(dirname "${BASH_SOURCE[0]}")/training_stage.sh"
