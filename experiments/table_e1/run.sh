#!/usr/bin/env bash
# Table E.1: a self-taught reasoner.
#   bash experiments/table_e1/run.sh [overrides]        from the repository's root; what is up to date is not run again
set -euo pipefail
rationale -m experiment=mini seed=1,2,3 "$@"
rationale -m experiment=table_e1 seed=1,2,3 "$@"
bash experiments/collect.sh table_e1 table_e1 table_e1
