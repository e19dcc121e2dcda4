#!/usr/bin/env bash
# Tables 3 and 4: DPO on our pairs and on pairs by another feedback.
#   bash experiments/table_3/run.sh [overrides]        from the repository's root; what is up to date is not run again
set -euo pipefail
rationale -m experiment=mini seed=1,2,3 "$@"
rationale -m experiment=table_3 seed=1,2,3 "$@"
bash experiments/collect.sh table_3 table_3 table_3 dpo
bash experiments/collect.sh table_3 table_4 table_4
