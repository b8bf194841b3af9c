#!/usr/bin/env bash
# The whole pipeline on real photographs: 24 cars of the 512x512 set, `tiny` at 256x256 on three folds.
# BACKDROP_CARVANA=FOLDER benchmarks/carvana.sh
set -euo pipefail
cd "$(dirname "$0")/.."
: "${BACKDROP_CARVANA:?name the folder that holds squashed-512}"
data=$(realpath "$BACKDROP_CARVANA")/squashed-512
time .venv/bin/backdrop pipeline run tiny --data "$data" --objects 24 --work work/benchmark-carvana
