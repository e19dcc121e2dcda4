#!/usr/bin/env bash
# Both models on the paper's benchmarks (Sec. 4.2), each on 8 GPUs: every GPU has the whole model and an eighth of the batches.
set -euo pipefail
rationale stage=prepare experiment=paper dataset=paper_benchmarks 'paths.questions=${paths.benchmarks}'
rationale stage=evaluate experiment=paper checkpoint=sft 'paths.questions=${paths.benchmarks}'
rationale stage=evaluate experiment=paper checkpoint=dpo 'paths.questions=${paths.benchmarks}'
