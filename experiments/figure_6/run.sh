#!/usr/bin/env bash
# Figure 6: the same on questions of a kind that was never trained on.
#   bash experiments/figure_6/run.sh [overrides]        from the repository's root; what is up to date is not run again
set -euo pipefail
rationale -m experiment=mini seed=1,2,3 "$@"
rationale -m experiment=table_3 seed=1,2,3 "$@"
rationale -m experiment=figure_6 seed=1,2,3 "$@"
rationale stage=tabulate experiment=figure_6 "$@"
rationale stage=tabulate experiment=figure_6 variant=rlaif "$@"
bash experiments/collect.sh figure_6 figure_6 verifier verifier
bash experiments/collect.sh figure_6_rlaif figure_6/rlaif verifier verifier
