#!/usr/bin/env bash
# Table G.3: models behind an API and ours. With OPENAI_API_KEY set, GPT-4o is asked all test questions; it costs.
#   bash experiments/table_g3/run.sh [overrides]        from the repository's root; what is up to date is not run again
set -euo pipefail
rationale -m experiment=mini seed=1,2,3 "$@"
[ -z "${OPENAI_API_KEY:-}" ] || \
rationale experiment=table_g3 "$@"
rationale stage=tabulate experiment=table_g3 "$@"
bash experiments/collect.sh table_g3 table_g3 table_g3
