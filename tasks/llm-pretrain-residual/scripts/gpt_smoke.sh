#!/usr/bin/env bash
# Stage gpt-smoke, a 0.2M model on the CPU: training takes about 4 s.
# Roles: `preflight` takes the first step, `feed` serves tokens to `run`, which trains;
# `serve` answers for what was trained, to `score`. Arguments after the role go to the settings.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
role=${1:-}
shift || true
source "$here/settings_smoke.sh"
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
    exec python -P -m scoring.perplexity --checkpoint gpt-smoke --max-windows 24 --max-passages 16 \
      --max-extra="$max_extra" --audited=512 -- "${settings[@]}"
    ;;
  *)
    echo "ERROR: unknown role '$role'. Use preflight, feed, run, serve or score." >&2
    exit 2
    ;;
esac
