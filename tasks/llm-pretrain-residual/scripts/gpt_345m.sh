#!/usr/bin/env bash
# Stage gpt-345m: a 345M model, on the GPUs in HARNESS_GPUS, one process each.
profile=345m
source "$(dirname "${BASH_SOURCE[0]}")/training_stage.sh"
