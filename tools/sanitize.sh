#!/usr/bin/env bash
# The operators' tests under AddressSanitizer and UndefinedBehaviorSanitizer, in a copy of the sources.
#     tools/sanitize.sh [PYTHON]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$(command -v "${1:-python}")
[ "${python#/}" = "$python" ] && python=$PWD/$python
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cp -r "$root"/{pass_transfer,cli,zoo,csrc,tests,setup.py,pyproject.toml,README.md,LICENSE} "$work"
find "$work" -name "_C*" -delete
cd "$work"
flags="-fsanitize=address,undefined -fno-sanitize=vptr -fno-omit-frame-pointer"
CXXFLAGS=$flags LDFLAGS=$flags PASS_TRANSFER_BUILD=cpp "$python" setup.py -q build_ext --inplace
ls pass_transfer/_C*.so

# Python and torch are not built for it: their leaks are not ours to look for.
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so)" PYTHONPATH=$work OMP_NUM_THREADS=2
"$python" -m pytest -q tests/ops tests/masking/test_forward.py -k "not test_torch_compile and not test_torch_export and not test_opcheck" -p no:cacheprovider
echo "sanitizers: nothing to report"
