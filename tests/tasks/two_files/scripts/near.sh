# Called with the role score only: counts the points that the line comes near to.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
exec python -S "$here/scoring.py" near
