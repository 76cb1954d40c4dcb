#!/usr/bin/env bash
# Installs the wheel with the dependencies of the core alone, and uses it: tests/core_only.sh [FOLDER]
# It works in FOLDER, a temporary one by default. With CPU builds of torch the environment takes 2 GB.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-$(mktemp -d)}
python=${PYTHON:-python3}
mkdir -p "$folder/source"
# A copy, so that no build folder is left in the checkout.
cp -r "$root"/{pyproject.toml,README.md,LICENSE,ragtune,ragtune_assets,ragtune_serving} "$folder/source"
"$python" -m venv "$folder/environment"
bin=$folder/environment/bin
"$bin/python" -m pip wheel --quiet --no-deps --wheel-dir "$folder" "$folder/source"
grep -v '^#' "$root/requirements/platform.txt" > "$folder/constraints.txt"
time "$bin/python" -m pip install --quiet -c "$folder/constraints.txt" "$folder"/ragtune-*.whl
du -sh "$folder/environment"

unset PYTHONPATH
cd "$folder"
"$bin/ragtune" --help > /dev/null
"$bin/ragtune" init project
cd project
"$bin/ragtune" index
"$bin/ragtune" search "which command trains a model" --json | grep -q '"source"'
message=$("$bin/ragtune" materialize 2>&1 || true)
grep -q "pip install 'ragtune\[graph\]'" <<< "$message" || { echo "Expected the name of an extra, got: $message"; exit 1; }
echo "The core alone indexes and searches, and names the extra that training needs. Delete $folder when you are done."
