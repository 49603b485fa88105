#!/usr/bin/env bash
# Checks an edited training file's contract on the CPU at small sizes, in about 12 s on two cores;
# nanoGPT/contract.py says what that is. Writes $HARNESS_OUT/findings.json.
set -euo pipefail

if [ "${1:-}" != contract ]; then
    echo "ERROR: this check has only the role contract, not '${1:-}'. Call it with contract." >&2
    exit 2
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
# The snapshot is read only; threads that wait by spinning stand still where the cores are shared.
export PYTHONPATH="$root/nanoGPT:${PYTHONPATH:-}" PYTHONDONTWRITEBYTECODE=1 OMP_WAIT_POLICY=PASSIVE
# -P: the current folder was within reach of the edited code and stays off the path.
exec python -P -m contract contract
