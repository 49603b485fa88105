# Called with its role: `run` works with the edited file, `serve` answers for what it left, and
# `score`, which never imports an edited file, computes every number that counts.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
case $1 in
  run) exec python "$here/running.py" ;;
  serve) exec python "$here/serving.py" ;;
  score) exec python "$here/scoring.py" ;;
  *) echo "ERROR: unknown role '$1'. Use run, serve or score." >&2; exit 2 ;;
esac
