#!/usr/bin/env bash
# Measures on a CUDA card, a stage at a time, each within 8 minutes and without a network: tools/gpu/run.sh STAGE
#   OUT     folder for the figures (JSON) and the log; default build/gpu
#   PYTHON  interpreter that finds the packages; default python3
#   MINUTES training time of the stage mini; default 5
# Exit status: 0 done, 1 something failed (the figures say what), 2 no such stage.
set -euo pipefail

stage=${1:-}
case "$#:$stage" in
  1:smoke | 1:mini) ;;
  *)
    echo "tools/gpu/run.sh: one stage, not '$*'; there are: smoke, mini" >&2
    exit 2
    ;;
esac

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-python3}
case $python in */*) python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") ;; esac
mkdir -p "${OUT:-$root/build/gpu}"
out=$(cd "${OUT:-$root/build/gpu}" && pwd)
cd "$root"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
exec > >(tee "$out/$stage.log") 2>&1

environment() {
  "$python" -m tools.gpu.environment "$out/environment.json"
}

smoke() {
  local status=0
  environment || status=1
  rm -f "$out/smoke.xml" "$out/smoke.json"
  # At the limit pytest is interrupted rather than killed, so that it still writes what is known by then.
  timeout --signal=INT --kill-after=20 "${SMOKE_SECONDS:-420}" "$python" -m pytest -m gpu tests/gpu/test_training.py tests/gpu -p no:cacheprovider -o junit_family=legacy \
    --durations=10 --junitxml="$out/smoke.xml" || status=$?
  if [ -f "$out/smoke.xml" ]; then
    "$python" -m tools.gpu.summary "$out/smoke.xml" "$out/smoke.json" "$status" || status=1
  else
    echo "smoke: pytest was stopped before it wrote its results; see the last lines above"
    status=1
  fi
  [ "$status" -eq 0 ]
}

mini() {
  local status=0
  environment || status=1
  timeout --signal=INT --kill-after=20 400 "$python" -m tools.mini --minutes "${MINUTES:-5}" || status=1
  # What is there is measured and kept, even where the recipe was stopped: it goes on from there next time.
  timeout --kill-after=5 60 "$python" - <<'PY' || status=1
from pathlib import Path

from tools.mini import emoji, measure

work = Path("build/mini")
print(measure.measure(Path("sdtune/mini"), emoji.load(work), work))
PY
  keep_mini || status=1
  return "$status"
}

# The trained model with its figures and sheets, in files of at most 16 MiB.
keep_mini() {
  local large
  rm -rf "$out/mini"
  mkdir -p "$out/mini"
  cp -R sdtune/mini/. "$out/mini/"
  large=$(find "$out/mini" -type f -size +16384k)
  if [ -n "$large" ]; then
    echo "mini: over 16 MiB, shard them: $large"
    return 1
  fi
  if [ -f build/mini/figures.json ]; then
    cp build/mini/figures.json "$out/mini.json"
    find build/mini -maxdepth 1 \( -name '*.jsonl' -o -name '*.png' \) -exec cp {} "$out/" \;
  else
    echo "mini: no build/mini/figures.json"
    return 1
  fi
}

"$stage"
