#!/usr/bin/env bash
# One's own pairs instead of those of dpo.sh, from the model of sft.sh: 32 responses to each question of the paper's three
# domains (Sec. 3.3), paired, and DPO against stored log-probs. Every stage but `pair` on 8 GPUs.
set -euo pipefail
rationale stage=sample experiment=paper 'paths.questions=${run_dir}/imported' 'sampling.exclude=[sqa,ai2d,infovqa,docvqa,textvqa]'
rationale stage=pair experiment=paper 'paths.questions=${run_dir}/imported'
rationale stage=score experiment=paper 'paths.questions=${run_dir}/imported'
rationale stage=dpo experiment=paper trainer=zero2 'paths.questions=${run_dir}/imported' dpo.reference=scored 'dpo.reference_logps=${paths.reference_logps}'
