#!/usr/bin/env bash
# The paper's SFT (Sec. 4, mixture 4: 404k rows) on one machine of 8 GPUs.
#   bash experiments/paper/sft.sh <folder with sft/<set>/*.jsonl> <folder of the images>
set -euo pipefail
rationale stage=import experiment=paper exchange=share4o_sft exchange.root="$1" exchange.images="$2"
rationale stage=import experiment=paper exchange=share4o_extra exchange.root="$1" exchange.images="$2"
rationale stage=sft experiment=paper trainer=zero3 'paths.questions=${run_dir}/imported' 'paths.rationales=${run_dir}/imported'
