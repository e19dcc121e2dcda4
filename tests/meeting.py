"""One of several processes that meet before and after a training, whose group stays; started from test_shards.py."""

import os
import time
from pathlib import Path

import torch

from rationale.shards import Processes


def main() -> None:
    for name in ("sample", "score"):
        time.sleep(int(os.environ["RANK"]))  # the second comes late, as one that waits for an artifact does
        Processes(devices=2).join(Path(name)).meet()
    torch.distributed.init_process_group("gloo")
    Processes(devices=2).join(Path("evaluate")).meet()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    print("met\n", end="", flush=True)


if __name__ == "__main__":
    main()
