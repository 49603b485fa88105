#!/usr/bin/env bash
# Stage gpt-smoke: a 0.2M model on the CPU: training takes about 4 s.
profile=smoke
source "$(dirname "${BASH_SOURCE[0]}")/training_stage.sh"
