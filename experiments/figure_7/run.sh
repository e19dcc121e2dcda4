#!/usr/bin/env bash
# Figure 7: credit of every token of sampled responses, and how it lies about the first wrong step.
#   bash experiments/figure_7/run.sh [overrides]        from the repository's root; what is up to date is not run again
set -euo pipefail
rationale -m experiment=mini seed=1,2,3 "$@"
cp "${RUN:-runs/mini}"/seed_1/credit/credit.{html,png} experiments/figure_7/
for seed in 1 2 3; do
  cp "${RUN:-runs/mini}/seed_$seed/credit/credit.csv" "experiments/figure_7/seed_$seed.csv"
  cp "${RUN:-runs/mini}/seed_$seed/credit/credit.md" "experiments/figure_7/seed_$seed.md"
done
