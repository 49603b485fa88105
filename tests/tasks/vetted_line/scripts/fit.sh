# Called with its role: tries the first step, fits the line, or scores it.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
case $1 in
  preflight) exec python -S "$here/preflight.py" ;;
  run) exec python -S "$HARNESS_FILES/loop.py" ;;
  score) exec python -S "$here/../two_files/scoring.py" fit ;;
  *) echo "ERROR: unknown role '$1'. Use preflight, run or score." >&2; exit 2 ;;
esac
