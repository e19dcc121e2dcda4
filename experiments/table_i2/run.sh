#!/usr/bin/env bash
# Table I.2: RFT against DPO.
#   bash experiments/table_i2/run.sh [overrides]        from the repository's root; what is up to date is not run again
set -euo pipefail
rationale -m experiment=mini seed=1,2,3 "$@"
rationale -m experiment=table_i2 seed=1,2,3 "$@"
rationale stage=tabulate experiment=table_i2 "$@"
bash experiments/collect.sh table_i2 table_i2 table_i2
