#!/usr/bin/env bash
# Build, tests, sanitizer and benchmarks of the kernels on a machine with CUDA, in one go:
#     benchmarks/gpu.sh [OUT]           # results as JSON in OUT, benchmarks/results/gpu by default
# It needs nvcc, and a Python with torch, torchvision, torch-pruning, safetensors, filelock, pytest,
# pytest-xdist, hypothesis and pytest-benchmark; what is missing is installed if pip can, from the
# folder WHEELS if that is set (a machine without a network). PYTHON names another Python, WORKERS says
# how many processes run tests side by side (what is timed runs alone).
# MODELS=resnet18 DENSITIES=0.5 ROOM=0 TORCH_CUDA_ARCH_LIST=9.0 took five minutes on an H100 with 16 cores.
# DEVICE=cpu rehearses it without a GPU: the same steps, small shapes, no sanitizer.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-benchmarks/results/gpu}
python=${PYTHON:-python3}
device=${DEVICE:-cuda}
workers=${WORKERS:-8}
mkdir -p "$out"
failed=()

step() {  # name, command...
  local name=$1 start=$SECONDS
  shift
  echo "== $name: $*"
  if "$@" > "$out/$name.log" 2>&1; then
    echo "   done in $((SECONDS - start)) s"
  else
    echo "   FAILED after $((SECONDS - start)) s; the end of $out/$name.log:"
    tail -n 15 "$out/$name.log" | sed 's/^/   /'
    failed+=("$name")
  fi
}

missing=$($python -c "
import sys
from importlib.metadata import PackageNotFoundError, version
for name in sys.argv[1:]:
    try:
        version(name)
    except PackageNotFoundError:
        print(name)
" torch-pruning safetensors filelock hypothesis sortedcontainers pytest iniconfig pluggy packaging pygments pytest-benchmark py-cpuinfo pytest-xdist execnet)
[ -z "$missing" ] || step requirements $python -m pip install -q ${WHEELS:+--no-index --no-deps --find-links "$WHEELS"} $missing

if [ "$device" = cuda ]; then build=cuda; else build=cpp; fi
step build env PASS_TRANSFER_BUILD=$build $python setup.py build_ext --inplace
export PYTHONPATH="$PWD:$PWD/benchmarks" PASS_TRANSFER_KERNELS=$build PT_DEVICE=$device
step tests $python -m pytest -p no:cacheprovider -n "$workers" tests/ops

if [ "$device" = cuda ]; then
  # What matters most comes first: time on such a machine may be short. MODELS, DENSITIES, ROOM and LAYOUTS say how much of it.
  for model in ${MODELS:-resnet18 resnet50}; do
    for room in ${ROOM:-0 8}; do  # channels beyond those that are kept that a captured step has room for
      step "search_step_${model}_room$room" $python benchmarks/search_step.py --models "$model" --sizes 224 --densities ${DENSITIES:-0.5 0.3 0.7 0.9} --precisions bf16 \
        --batch 256 --compile --cuda-graph --slack "$room" --layouts ${LAYOUTS:-channels_last nchw} --device cuda --out "$out/search_step"
    done
  done
  # Not what needs the profiler, which the sanitizer keeps out. Races are looked for where kernels of ours share memory: top-k, and sums over positions.
  step memcheck compute-sanitizer --target-processes all --error-exitcode 1 \
    $python -m pytest -p no:cacheprovider -n "$workers" tests/ops/test_cuda.py -k "not one_launch"
  step racecheck compute-sanitizer --tool racecheck --kernel-regex kns=pass_transfer --error-exitcode 1 \
    $python -m pytest -p no:cacheprovider tests/ops/test_cuda.py -k "many_scores or reduce or pooling_in_the_layer_is_the_float64"
  step operators $python -m pytest -p no:cacheprovider benchmarks/test_kernels.py --benchmark-enable --benchmark-json="$out/operators.json"
else
  step operators $python -m pytest -p no:cacheprovider benchmarks/test_kernels.py -k "topk or 512" --benchmark-enable --benchmark-json="$out/operators.json"
  step search_step $python benchmarks/search_step.py --models resnet18 --sizes 64 --densities 0.5 --batch 8 --rounds 2 --device cpu --out "$out/search_step"
fi

cat "$out"/search_step*.log
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]}"
  exit 1
fi
echo "all steps passed; results are in $out"
