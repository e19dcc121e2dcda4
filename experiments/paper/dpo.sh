#!/usr/bin/env bash
# The paper's DPO (Sec. 5: 64.8k pairs) from the model of sft.sh, on one machine of 8 GPUs.
#   bash experiments/paper/dpo.sh <folder with dpo_preview/*.jsonl> <folder of the images>
set -euo pipefail
rationale stage=import experiment=paper exchange=share4o_dpo exchange.root="$1" exchange.images="$2"
rationale stage=dpo experiment=paper trainer=zero2 'paths.questions=${run_dir}/imported_pairs' 'paths.pairs=${run_dir}/imported_pairs'
