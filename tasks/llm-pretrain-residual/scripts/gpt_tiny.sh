#!/usr/bin/env bash
# Stage gpt-tiny: a 1.3M model on the CPU: training takes about 30 s on two cores.
profile=tiny
source "$(dirname "${BASH_SOURCE[0]}")/training_stage.sh"
