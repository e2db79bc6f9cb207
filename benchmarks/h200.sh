#!/usr/bin/env bash
# All benchmarks for one H200-class GPU, the most valuable first, within TOTAL seconds (25 minutes):
#
#   PYTHON=/path/to/python OUT=folder bash benchmarks/h200.sh
#   bash benchmarks/h200.sh --smoke     every script on the CPU with tiny shapes (voice and face have none), nothing
#                                       recorded: about 17 minutes of one core, within four times the limits
#
# Each step has its own time limit. A script's rows are written to OUT/*.jsonl (default: benchmarks/results) at its end,
# its output to OUT/logs; a step that fails or runs out of time is reported and the next one begins.
# `python benchmarks/results.py --add OUT` adds the rows from another folder. Exit status: the number of failed steps.
#
# Environment variables, all optional:
#   STYLETTS2, DREAMTALK  clones of the originals, to measure beside
#   EMPATHEIA_COMMIT      the commit, in a copy without git
#   TRAIN_XLA_FLAGS       of the training steps only. Default: matrix products by cuBLAS instead of Triton, loops double
#                         buffered (MaxText's recipe for 7B). Its other two flags are left out: a single device has no
#                         collectives to hide, and decoding needs the command buffers. Rows record the flags.
#   ONLY                  names of the steps to run, separated by spaces
set -u
OUT=${OUT:+$(realpath -m "$OUT")}
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3} LEAST=${LEAST:-15} SMOKE=${1:-} PATIENCE=1 # LEAST: seconds that a step needs
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

if [ "$SMOKE" = --smoke ]; then
  OUT=${OUT:-$(mktemp -d)}
  export JAX_PLATFORMS=cpu
  PATIENCE=4 RECORD=(--smoke) BIG=tiny MIDDLE=tiny ENCODERS=small ATTENTION=xla CUDA='' TRAIN_XLA_FLAGS=''
elif [ -n "$SMOKE" ]; then
  echo "usage: [PYTHON=...] [OUT=...] bash benchmarks/h200.sh [--smoke]" >&2
  exit 2
else
  OUT=${OUT:-benchmarks/results}
  export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda} XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}
  RECORD=(--record "$OUT") BIG=7b MIDDLE=1b ENCODERS=large ATTENTION=cudnn CUDA='torch.cuda.is_available() and'
  TRAIN_XLA_FLAGS=${TRAIN_XLA_FLAGS---xla_gpu_enable_triton_gemm=false --xla_gpu_enable_while_loop_double_buffering=true}
fi
TOTAL=${TOTAL:-$((1500 * PATIENCE))}
mkdir -p "$OUT/logs"

PEER=() SPEECH=() FACE=()
if "$PYTHON" -c "import torch; assert $CUDA True" 2>/dev/null; then
  TORCH=yes PEER=(--peer torch)
  [ -n "${STYLETTS2:-}" ] && SPEECH=(--peer torch --torch-repo "$STYLETTS2")
  [ -n "${DREAMTALK:-}" ] && FACE=(--peer torch --torch-repo "$DREAMTALK")
else
  TORCH='' && echo "torch is not installed or finds no GPU: without peers"
fi

BEGAN=$SECONDS FAILED=0 SUMMARY=()

step() { # NAME LIMIT COMMAND...
  local name=$1 limit=$(($2 * PATIENCE)) left=$((TOTAL - SECONDS + BEGAN)) start=$SECONDS status
  shift 2
  [ -n "${ONLY:-}" ] && [[ " $ONLY " != *" $name "* ]] && return
  if [ "$left" -lt "$LEAST" ]; then
    SUMMARY+=("$(printf '%-18s not run: no time left' "$name")")
    return
  fi
  [ "$limit" -gt "$left" ] && limit=$left
  echo "── $name (at most $limit s): $*"
  timeout -k 10 "$limit" "$@" >"$OUT/logs/$name.log" 2>&1
  status=$?
  grep -h '^{"name"' "$OUT/logs/$name.log"
  if [ $status -eq 0 ]; then
    SUMMARY+=("$(printf '%-18s ok      %4d s' "$name" $((SECONDS - start)))")
  else
    FAILED=$((FAILED + 1))
    [ $status -eq 124 ] || [ $status -eq 137 ] && status="out of time"
    SUMMARY+=("$(printf '%-18s FAILED  %4d s (%s), see %s' "$name" $((SECONDS - start)) "$status" "$OUT/logs/$name.log")")
    tail -n 15 "$OUT/logs/$name.log" >&2
  fi
}

bench() { # NAME LIMIT SCRIPT WORDS...
  local name=$1 limit=$2 script=$3
  shift 3
  step "$name" "$limit" "$PYTHON" "benchmarks/$script" "$@" "${RECORD[@]}"
}

training() { # XLA takes a value that is no flag, even a space, for a file name: leave XLA_FLAGS unset where it is empty
  local flags="${XLA_FLAGS:+$XLA_FLAGS }$TRAIN_XLA_FLAGS"
  if [ -n "$flags" ]; then XLA_FLAGS=$flags bench "$@"; else bench "$@"; fi
}

training train_7b 280 train_step.py --shape $BIG --attention $ATTENTION --steps 4
bench decode_7b 150 decode.py --shape $BIG
training train_1b 180 train_step.py --shape $MIDDLE --attention $ATTENTION --steps 4 "${PEER[@]}"
bench decode_1b 120 decode.py --shape $MIDDLE "${PEER[@]}"
bench quantized 150 quantized.py --shape $BIG
bench extract 150 extract.py --shape $ENCODERS "${PEER[@]}"
bench speech 100 speech.py "${SPEECH[@]}"
bench face 100 face.py "${FACE[@]}"
bench respond 240 respond.py --shape $BIG --generators neural "${PEER[@]}"
bench respond_classical 90 respond.py
bench data 120 data.py
bench scaling 240 scaling.py --shape $MIDDLE
[ "$SMOKE" = --smoke ] || step demo 500 "$PYTHON" -m empatheia_jax demo --output "$OUT/demo" # `make demo` is a smoke test
bench stage2 120 stage2.py
bench convert 150 convert.py --shape $([ "$SMOKE" = --smoke ] && echo tiny || echo 300m) "${PEER[@]}"
[ -z "$TORCH" ] || bench bridge 90 bridge.py

echo "── $((SECONDS - BEGAN)) s in all; $FAILED failed"
printf '%s\n' "${SUMMARY[@]}"
[ "$SMOKE" = --smoke ] || [ "$OUT" != benchmarks/results ] || "$PYTHON" benchmarks/results.py
exit $FAILED
