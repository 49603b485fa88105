#!/usr/bin/env bash
# The contract of the training file, whatever region of it is edited.
source "$(dirname "${BASH_SOURCE[0]}")/../../llm-pretrain-residual/scripts/contract.sh"
