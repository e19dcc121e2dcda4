#!/usr/bin/env bash
# DPO with one change at a time; not in the paper.
#   bash experiments/dpo_ablations/run.sh [overrides]        from the repository's root; what is up to date is not run again
set -euo pipefail
rationale -m experiment=mini seed=1,2,3 "$@"
rationale -m experiment=dpo_ablations seed=1,2,3 dpo.objective.beta=0.03,0.3 'variant=beta_${dpo.objective.beta}' "$@"
rationale -m experiment=dpo_ablations seed=1,2,3 dpo.optim.lr=1e-5,1e-4 'variant=lr_${dpo.optim.lr}' "$@"
rationale -m experiment=dpo_ablations seed=1,2,3 pairing.max_pairs=1 'paths.pairs=${member}/pairs_1' variant=pairs_1 "$@"
rationale -m experiment=dpo_ablations seed=1,2,3 dpo.group_by=question variant=questions "$@"
rationale -m experiment=dpo_ablations seed=1,2,3 train_set=chartqa,aokvqa,docvqa 'dpo.datasets=${train_datasets}' 'variant=${train_set}' "$@"
rationale stage=tabulate experiment=dpo_ablations "$@"
bash experiments/collect.sh dpo_ablations dpo_ablations dpo_ablations
