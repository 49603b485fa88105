# What every stage begins with; sourced with `profile` set and the script's arguments.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
role=${1:-}
shift || true
source "$here/settings_$profile.sh"
IFS=, read -ra gpus <<<"${HARNESS_GPUS:-}"
# The snapshot's own files come first wherever an edited file is imported.
export PYTHONPATH="$root/nanoGPT:${PYTHONPATH:-}"
# Threads that wait by spinning stand still where the cores are shared: 15 times slower.
export OMP_WAIT_POLICY=PASSIVE

# A model server for each of the stage's GPUs; scoring on the first.
# -P: the current folder holds the edited code, or did, and stays off the path.
serve() {
  export CUDA_VISIBLE_DEVICES=${HARNESS_GPU:-}
  exec python -P -m model_server -- "${settings[@]}"
}
score() { # score MODULE OPTION...: computes the stage's metrics
  export CUDA_VISIBLE_DEVICES=${gpus[0]:-}
  exec python -P -m "$@" --checkpoint "gpt-$profile" --max-extra="$max_extra" \
    --audited="$audited" -- "${settings[@]}"
}
