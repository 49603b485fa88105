# Called with its role: fits the line, answers for it, or scores it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
case $1 in
  run) exec python "$HARNESS_FILES/loop.py" ;;
  serve) exec python "$here/serving.py" ;;
  score) exec python "$here/scoring.py" fit ;;
  *) echo "ERROR: unknown role '$1'. Use run, serve or score." >&2; exit 2 ;;
esac
