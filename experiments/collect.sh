#!/usr/bin/env bash
# Copy from a finished run what is committed: a report's table (-: none) with its claims, and figures.
#   bash experiments/collect.sh <report> <folder below experiments> <table> [figure ...]     RUN: the run, by default runs/mini
set -euo pipefail
from="${RUN:-runs/mini}/$1" to="experiments/$2"
mkdir -p "$to"
if [ "$3" != - ]; then
  cp "$from/$3.md" "$to/table.md"
  cp "$from/$3.csv" "$to/ours.csv"
  cp "$from"/orderings.{md,csv} "$to/"
fi
for figure in "${@:4}"; do cp "$from/$figure.svg" "$to/"; done
