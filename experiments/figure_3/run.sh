#!/usr/bin/env bash
# Figure 3: words of rationales and direct answers.
#   bash experiments/figure_3/run.sh [overrides]        from the repository's root; what is up to date is not run again
set -euo pipefail
rationale -m experiment=mini seed=1,2,3 "$@"
bash experiments/collect.sh report figure_3 - lengths responses
