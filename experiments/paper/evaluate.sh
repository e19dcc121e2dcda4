#!/usr/bin/env bash
# Both models on the paper's benchmarks (Sec. 4.2), a GPU each.
set -euo pipefail
rationale stage=prepare experiment=paper dataset=paper_benchmarks 'paths.questions=${paths.benchmarks}'
CUDA_VISIBLE_DEVICES=0 rationale stage=evaluate experiment=paper of=sft 'paths.questions=${paths.benchmarks}' &
CUDA_VISIBLE_DEVICES=1 rationale stage=evaluate experiment=paper of=dpo 'paths.questions=${paths.benchmarks}' &
wait -n
wait -n
