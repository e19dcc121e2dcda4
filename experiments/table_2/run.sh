#!/usr/bin/env bash
# Table 2: SFT on four mixtures.
#   bash experiments/table_2/run.sh [overrides]        from the repository's root; what is up to date is not run again
set -euo pipefail
rationale -m experiment=mini seed=1,2,3 "$@"
bash experiments/collect.sh report table_2 table_2 overview sft
