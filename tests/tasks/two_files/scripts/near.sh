# Called with its role: answers for the line, or counts the points that it comes near to.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
case $1 in
  serve) exec python "$here/serving.py" ;;
  score) exec python "$here/scoring.py" near ;;
  *) echo "ERROR: unknown role '$1'. Use serve or score." >&2; exit 2 ;;
esac
