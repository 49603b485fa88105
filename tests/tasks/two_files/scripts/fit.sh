# Called with its role: fits the line, or scores it.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
case $1 in
  run) exec python -S "$HARNESS_FILES/loop.py" ;;
  score) exec python -S "$here/scoring.py" fit ;;
  *) echo "ERROR: unknown role '$1'. Use run or score." >&2; exit 2 ;;
esac
