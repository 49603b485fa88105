# Called with its role: `run` trains with the edited files, `serve` answers for what it left, and
# `score`, which imports no edited file, computes every number that counts.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# One thread: the network is small, and the sums are the same on every machine of a kind.
export OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1
case $1 in
  run)
    case $HARNESS_PROFILE in
      tiny) steps=20000 ;;
      smoke) steps=300 ;;
      *) echo "ERROR: unknown profile '$HARNESS_PROFILE'. Use tiny or smoke." >&2; exit 2 ;;
    esac
    exec python "$here/training.py" "$steps" ;;
  serve) exec python "$here/answering.py" ;;
  score) exec python "$here/judging.py" ;;
  *) echo "ERROR: unknown role '$1'. Use run, serve or score." >&2; exit 2 ;;
esac
