#!/usr/bin/env bash
# Rounds of sampling, pairing and DPO; not in the paper.
#   bash experiments/iterative/run.sh [overrides]        from the repository's root; what is up to date is not run again
set -euo pipefail
rationale -m experiment=mini seed=1,2,3 "$@"
rationale -m experiment=iterative seed=1,2,3 "$@"
bash experiments/collect.sh iterative iterative iterative
