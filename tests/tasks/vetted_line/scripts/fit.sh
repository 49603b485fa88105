# Called with its role: tries the first step, fits the line, answers for it, or scores it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
case $1 in
  preflight) exec python "$here/preflight.py" ;;
  run) exec python "$HARNESS_FILES/loop.py" ;;
  serve) exec python "$here/../../two_files/scripts/serving.py" ;;
  score) exec python "$here/../../two_files/scripts/scoring.py" fit ;;
  *) echo "ERROR: unknown role '$1'. Use preflight, run, serve or score." >&2; exit 2 ;;
esac
