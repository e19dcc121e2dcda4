#!/usr/bin/env bash
# When does preference training help?  bash experiments/when_dpo_helps/run.sh [overrides]
# Fifteen runs on two CPU cores; what is up to date is not run again.
set -euo pipefail
rationale -m experiment=when_dpo_helps teacher.terse=0,0.25,0.5,0.65,0.8 seed=1,2,3 "$@"
python experiments/when_dpo_helps/figure.py "${RUN:-runs/when_dpo_helps}"
