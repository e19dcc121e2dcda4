#!/usr/bin/env bash
# Table I.1: truncated responses.
#   bash experiments/table_i1/run.sh [overrides]        from the repository's root; what is up to date is not run again
set -euo pipefail
rationale -m experiment=mini seed=1,2,3 "$@"
rationale -m experiment=table_i1 seed=1,2,3 "$@"
rationale stage=tabulate experiment=table_i1 "$@"
bash experiments/collect.sh table_i1 table_i1 table_i1 dpo
