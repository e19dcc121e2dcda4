#!/usr/bin/env bash
# Tables G.1 and G.2: what other sets add to one.
#   bash experiments/table_g1/run.sh [overrides]        from the repository's root; what is up to date is not run again
set -euo pipefail
rationale -m experiment=mini seed=1,2,3 "$@"
rationale -m experiment=table_f1 seed=1,2,3 "$@"
rationale -m experiment=table_g seed=1,2,3 "$@"
rationale stage=tabulate experiment=table_g "$@"
bash experiments/collect.sh table_g table_g1 table_g1
bash experiments/collect.sh table_g table_g2 table_g2
