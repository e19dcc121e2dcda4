"""DeepSpeed ZeRO, on GPUs as Lightning has it and on CPU processes, where sharding is tested without a GPU."""

from __future__ import annotations

import os
from typing import Any

import torch
from pytorch_lightning.strategies import DeepSpeedStrategy


class CPUDeepSpeedStrategy(DeepSpeedStrategy):
    """DeepSpeedStrategy over gloo. Lightning refuses DeepSpeed on CPU, which has worked for long, by one check."""

    def __init__(self, **kwargs: Any):
        os.environ["DS_ACCELERATOR"] = "cpu"
        super().__init__(process_group_backend="gloo", logging_batch_size_per_gpu=1, **kwargs)

    @property
    def root_device(self) -> torch.device:
        return torch.device("cpu", self.local_rank)

    def setup_environment(self) -> None:
        super(DeepSpeedStrategy, self).setup_environment()  # past the check

    def setup_distributed(self) -> None:
        self.set_world_ranks()
        self._init_deepspeed_distributed()
