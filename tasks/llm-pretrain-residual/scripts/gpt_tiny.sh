#!/usr/bin/env bash
# Stage gpt-tiny, a 1.3M model on the CPU: training takes about 40 s on two cores.
# Roles: `preflight` takes the first step, `feed` serves tokens to `run`, which trains;
# `serve` answers for what was trained, to `score`. Arguments after the role go to the settings.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
role=${1:-}
shift || true
source "$here/settings_tiny.sh"
# Threads that wait by spinning stand still where the cores are shared: 15 times slower.
export OMP_WAIT_POLICY=PASSIVE

# -P: the current folder holds the edited code and stays off the path.
case $role in
  preflight) exec python -P "$root/nanoGPT/preflight.py" "${settings[@]}" "$@" ;;
  feed)
    export PYTHONPATH="$root/nanoGPT:${PYTHONPATH:-}"
    exec python -P -m feeder "${settings[@]}" "$@"
    ;;
  run) exec python nanoGPT/custom_pretrain.py "${settings[@]}" "$@" ;;
  serve) exec python -P "$root/nanoGPT/model_server.py" -- "${settings[@]}" ;;
  score)
    export PYTHONPATH="$root/nanoGPT:${PYTHONPATH:-}"
    exec python -P -m scoring.perplexity --checkpoint gpt-tiny --max-windows 200 \
      --max-extra="$max_extra" --audited=1024 -- "${settings[@]}"
    ;;
  *)
    echo "ERROR: unknown role '$role'. Use preflight, feed, run, serve or score." >&2
    exit 2
    ;;
esac
