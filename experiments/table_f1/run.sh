#!/usr/bin/env bash
# Table F.1: one data set's rationales, direct answers, or both.
#   bash experiments/table_f1/run.sh [overrides]        from the repository's root; what is up to date is not run again
set -euo pipefail
rationale -m experiment=mini seed=1,2,3 "$@"
rationale -m experiment=table_f1 seed=1,2,3 "$@"
rationale stage=tabulate experiment=table_f1 "$@"
bash experiments/collect.sh table_f1 table_f1 table_f1
