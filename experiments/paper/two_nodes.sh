#!/usr/bin/env bash
# The same on two machines of 8 GPUs with one folder for both, after the imports of sft.sh and dpo.sh and the `prepare` of
# evaluate.sh; run it on each.  bash experiments/paper/two_nodes.sh <name or address of the first machine>
set -euo pipefail
# A step of 32 in 16 processes: two rows each, where 8 have four.
torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint "$1":29500 -m rationale stage=sft experiment=paper trainer=zero3 trainer.num_nodes=2 sft.batch.micro_batch_size=2 sft.batch.gradient_accumulation_steps=16 'paths.questions=${run_dir}/imported' 'paths.rationales=${run_dir}/imported'
torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint "$1":29500 -m rationale stage=dpo experiment=paper trainer=zero2 trainer.num_nodes=2 'paths.questions=${run_dir}/imported_pairs' 'paths.pairs=${run_dir}/imported_pairs'
torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint "$1":29500 -m rationale stage=evaluate experiment=paper trainer.num_nodes=2 checkpoint=sft 'paths.questions=${paths.benchmarks}'
torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint "$1":29500 -m rationale stage=evaluate experiment=paper trainer.num_nodes=2 checkpoint=dpo 'paths.questions=${paths.benchmarks}'
