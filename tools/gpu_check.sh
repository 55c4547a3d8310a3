#!/usr/bin/env bash
# Everything that needs a GPU, in under ten minutes: build, benchmarks, tests, compute-sanitizer.
#
#   tools/gpu_check.sh OUTDIR [--library FILE] [step...]
#
# steps: build benchmarks tests accuracy triton memcheck racecheck compiled training parallel memcheck_triton racecheck_triton
#
# OUTDIR gets summary.json, logs, and the benchmarks' records, eight files in all. A step that fails or runs out of time
# doesn't stop the next; steps that found no time can be named in another call, with another OUTDIR. Needs no network:
# what pip would fetch is not fetched, and the tests of kvmem do without it. build compiles only where the library is
# missing, older than its sources, or can't run here; --library puts one that was built elsewhere in its place. Paths
# are absolute, or from the repository's root.
# benchmarks prints what tools/gpu_model.py predicted beside what it measures. tests, accuracy, memcheck and racecheck
# are those of the CUDA kernels, triton (tests and accuracy) and what ends in _triton those of the Triton kernels;
# training is the benchmark of kvmgan's whole step, parallel its training by two processes on one GPU, and on two where
# there are.
# KVMEM_CHECK_SECONDS (570) is the time for all, KVMEM_CHECK_PYTHON (python3) the Python that has torch.
set -uo pipefail
cd "$(dirname "$0")/.."
out=$(mkdir -p "${1:?OUTDIR}" && cd "$1" && pwd)
shift
library=kvmem/_kernels.so
if [ "${1:-}" = --library ]; then
  given=${2:?--library: FILE}
  [ "$given" -ef "$library" ] || cp "$given" "$library" || exit 2
  touch "$library" # newer than its sources: not to be built again
  shift 2
fi
steps=${*:-build benchmarks tests accuracy triton memcheck racecheck compiled training parallel memcheck_triton racecheck_triton}
limit=${KVMEM_CHECK_SECONDS:-570}
python=${KVMEM_CHECK_PYTHON:-python3}
# cmake and ninja lie beside Python where pip has put them.
PATH="$(dirname "$("$python" -c 'import sys; print(sys.executable)')"):$PATH"
export PATH PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 KVMEM_REQUIRE_CUDA=1
# Workers for tests that share the GPU: most of the time of Triton's goes into compiling, which takes all the cores.
few_workers="" workers=""
if "$python" -c 'import xdist' 2>/dev/null; then few_workers="-n 4" workers="-n $(nproc)"; fi

runs() { "$python" -c 'import kvmem; print(kvmem.backends()); assert kvmem.backends()["cuda"].available'; }
is_current() {
  [ -f "$library" ] && [ -z "$(find csrc CMakeLists.txt setup.py -newer "$library" -print -quit)" ] && runs
}
build() {
  nvidia-smi
  if is_current; then
    echo "$library is there, newer than its sources: not built again"
    return
  fi
  nvcc --version
  "$python" -m pip install -v --no-build-isolation --no-deps -e . || "$python" setup.py build_ext --inplace
  runs
}
tests() {
  "$python" -m pytest -q -rfEs --durations=10 tests/gpu tests/cuda -k "not triton" \
    --deselect tests/gpu/test_accuracy.py --deselect tests/gpu/test_parallel.py
}
# shellcheck disable=SC2086
accuracy() { "$python" -m pytest -q -rfE $few_workers tests/gpu/test_accuracy.py -k "not triton"; }
triton() {
  # Those that fill the GPU's memory run one at a time.
  local large=tests/gpu/test_memory.py::test_more_than_two_to_the_31_numbers code
  # shellcheck disable=SC2086
  "$python" -m pytest -q -rfEs --durations=10 $workers tests/gpu -k triton --deselect "$large"
  code=$?
  "$python" -m pytest -q -rfEs "$large" -k triton && return "$code"
}
sanitize() {
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$1" --error-exitcode 9 --print-limit 20 \
    "$python" tools/sanitizer_cases.py --backend "$2"
}
memcheck() { sanitize memcheck cuda; }
racecheck() { sanitize racecheck cuda; }
memcheck_triton() { sanitize memcheck triton; }
racecheck_triton() { sanitize racecheck triton; }
measure() { "$python" benchmarks/run.py --device cuda --seconds "$((budget - 25))" "$@"; }
benchmarks() {
  local code
  measure --torch-compile none --json "$out/benchmarks.json"
  code=$?
  if [ -f "$out/benchmarks.json" ]; then
    "$python" tools/gpu_model.py --beside "$out/benchmarks.json" || echo "no predictions to print beside it"
  fi
  return "$code"
}
compiled() { measure --torch-compile only --json "$out/compiled.json"; }
training() { "$python" benchmarks/training_step.py --device cuda --batch-size 32 --json "$out/training.json"; }
parallel() { "$python" -m pytest -q -rfEs tests/gpu/test_parallel.py; }

seconds_of() {
  case $1 in build | triton) echo 180 ;; tests | accuracy) echo 150 ;; memcheck* | racecheck*) echo 90 ;; *) echo 200 ;; esac
}

log_of() {
  case $1 in tests | accuracy | triton | parallel) echo tests ;; memcheck* | racecheck*) echo sanitizer ;; benchmarks | compiled | training) echo benchmarks ;; *) echo "$1" ;; esac
}

export -f runs is_current build tests accuracy triton sanitize memcheck racecheck memcheck_triton racecheck_triton
export -f measure benchmarks compiled training parallel
export python out library few_workers workers budget
results="" failed=0
rm -f "$out"/{build,tests,sanitizer,benchmarks}.log
for step in $steps; do
  log="$out/$(log_of "$step").log" begin=$SECONDS
  budget=$(seconds_of "$step")
  [ "$budget" -lt $((limit - SECONDS)) ] || budget=$((limit - SECONDS))
  if [ "$budget" -lt 30 ]; then
    echo "$step: no time left" >>"$log"
    code=124
  else
    # Interrupted, not terminated: pytest then says what failed so far.
    timeout -s INT -k 10 "$budget" bash -c "$step" >>"$log" 2>&1
    code=$?
  fi
  [ "$code" -eq 0 ] || failed=1
  echo "$step: exit $code after $((SECONDS - begin)) s; $(tail -n 1 "$log")"
  results+="${results:+,}
  {\"step\": \"$step\", \"exit\": $code, \"seconds\": $((SECONDS - begin))}"
  # Written after every step: what comes back of a run that is stopped says how far it got.
  printf '{"limit_seconds": %s, "steps": [%s\n]}\n' "$limit" "$results" >"$out/summary.json"
done
exit $failed
