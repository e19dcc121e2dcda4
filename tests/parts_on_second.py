"""Parts of `make gpu` on the double of an accelerator; started from test_gpu.py.

parts_on_second.py FOLDER       writes found.json there: the rows of each part, and the device of every forward pass
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from functools import partial
from pathlib import Path
from unittest import mock

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"
sys.path[:0] = [str(EXPERIMENTS / "gpu"), str(EXPERIMENTS / "speed")]

import common  # noqa: E402
import families  # noqa: E402
import parts  # noqa: E402
import second  # noqa: E402

from rationale.models.device import device_of  # noqa: E402


def main() -> None:
    work, found = Path(sys.argv[1]), {}
    few = {name: families.EVERY[name] for name in ("llava", "qwen3_5")}
    told = partial(common.pl.Trainer, strategy=second.STRATEGY)  # Lightning knows no other for it
    with (
        mock.patch.dict(families.EVERY, few, clear=True),
        mock.patch.object(common.pl, "Trainer", told),
        mock.patch.dict(parts.LIMITS),
    ):
        del parts.LIMITS["bfloat16"]  # it has no autocast
        for name in ("machine", "families", "model", "memory"):
            found[name] = list(parts.PARTS[name](device_of("auto"), work, True))
    (work / "found.json").write_text(json.dumps({**found, "passes": dict(second.PASSES)}), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
