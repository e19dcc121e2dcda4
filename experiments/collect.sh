#!/usr/bin/env bash
# Copy from a finished run what is committed: a report's table, its claims, its figures.
#   bash experiments/collect.sh <report> <folder below experiments> <table> [figure ...]     RUN: the run, by default runs/mini
set -euo pipefail
from="${RUN:-runs/mini}/$1" to="experiments/$2"
mkdir -p "$to"
cp "$from/$3.md" "$to/table.md"
cp "$from/$3.csv" "$to/ours.csv"
cp "$from"/orderings.{md,csv} "$to/"
for figure in "${@:4}"; do cp "$from/$figure.svg" "$to/"; done
