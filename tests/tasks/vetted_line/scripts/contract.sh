# Called with the role contract: runs the edited files on two numbers.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
exec python "$here/contract.py"
