#!/usr/bin/env bash
# Figure 5: the DPO model as verifier, of pairs by annotation and by another feedback.
#   bash experiments/figure_5/run.sh [overrides]        from the repository's root; what is up to date is not run again
set -euo pipefail
rationale -m experiment=mini seed=1,2,3 "$@"
rationale -m experiment=table_3 seed=1,2,3 "$@"
rationale stage=tabulate experiment=figure_5 "$@"
rationale stage=tabulate experiment=figure_5 variant=rlaif "$@"
bash experiments/collect.sh figure_5 figure_5 verifier verifier
bash experiments/collect.sh figure_5_rlaif figure_5/rlaif verifier verifier
