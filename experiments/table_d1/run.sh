#!/usr/bin/env bash
# Table D.1: before any training, and after format rows.
#   bash experiments/table_d1/run.sh [overrides]        from the repository's root; what is up to date is not run again
set -euo pipefail
rationale -m experiment=mini seed=1,2,3 "$@"
rationale -m experiment=table_d1 seed=1,2,3 "$@"
bash experiments/collect.sh table_d1 table_d1 table_d1
