"""What run.py has done, a part a process: it fills the file `--json` row by row, so that what stops it leaves the rest.

python experiments/gpu/parts.py NAME --json FILE --work FOLDER [--device cpu] [--small]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "experiments/speed")]

import rationale  # noqa: F401, E402, before what imports torchvision  # isort: skip
import torch  # noqa: E402
from run import LIMITS, page  # noqa: E402

from rationale.models.device import counts_memory, device_of, moved, name_of, use  # noqa: E402
from rationale.provenance import versions  # noqa: E402

Rows = Iterator[dict[str, Any]]


def attempt(work: Callable[[], tuple[dict[str, Any], dict[str, float]]], **named: str) -> Rows:
    """The row that the work gives, and which of its numbers are over their limits (what is no number is). Work that
    fails is told in its row, and the next is tried."""
    try:
        found, limits = work()
        over = [f"{name} over {limit:g}" for name, limit in limits.items() if not found.get(name, 0) <= limit]
        yield named | found | {"failed": "; ".join(over) or None}
    except Exception as error:
        traceback.print_exc()
        yield named | {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}


def machine(device: torch.device, work: Path, small: bool) -> Rows:
    """What there is."""
    memory = torch.get_device_module(device).mem_get_info(device)[1] / 2**30 if device.type == "cuda" else None
    yield {"device": str(device), "name": name_of(device), "memory_gib": memory, "cuda": torch.version.cuda,
           "hip": torch.version.hip, "processors": os.cpu_count(), "threads": torch.get_num_threads(),
           "kernels": torch.backends.cpu.get_cpu_capability(), **versions()}  # fmt: skip


def families(device: torch.device, work: Path, small: bool) -> Rows:
    """Every family in both dtypes."""
    from families import EVERY

    torch.backends.cudnn.allow_tf32 = False  # else convolutions have 10 bits
    for dtype in LIMITS:
        for name in EVERY:
            yield from attempt(partial(family, name, device, dtype), family=name, dtype=dtype)


def family(name: str, device: torch.device, dtype: str) -> tuple[dict[str, Any], dict[str, float]]:
    """Distances between its layouts and transformers' forward pass of unpadded rows; bfloat16 by autocast, as in
    training. What a family cannot do is left out."""
    from common import PRECISIONS
    from families import CASES, EVERY, PAD, PROMPTS, RESPONSES, Encoded, both

    from rationale.models.families import can_copy, can_share
    from rationale.models.generate import decode
    from rationale.models.layout import rows_batch
    from rationale.models.logps import computing, response_logps
    from rationale.models.prefill import candidate_logps, prefill
    from rationale.models.prefix import enable
    from rationale.objectives.logprobs import token_logps

    torch.manual_seed(0)
    built = EVERY[name]()
    model = built.model.eval().to(device)
    for weight in (p for p in model.parameters() if p.ndim > 1):
        weight.data *= 4  # as drawn, what a token sees hardly counts
    if can_share(model):
        enable(model)
    expected, slopes, found, prompts = [], [], {}, partial(built.prompts, PROMPTS)

    def gap(logps: list[torch.Tensor]) -> float:
        return max((a[: len(b)] - b).abs().max().item() for a, b in zip(logps, expected, strict=True))

    with computing(PRECISIONS[dtype], device):
        for case, response in zip(CASES, RESPONSES, strict=True):
            row = rows_batch([case], [response], prompts, PAD).to(device)
            with torch.no_grad():
                logits = model(**row.inputs, use_cache=False).logits[:, -len(response) - 1 : -1]
            expected.append(token_logps(logits, row.labels)[0])
        for layout, batch in zip(("rows", "tree")[: 1 + can_share(model)], both(built), strict=False):
            logps = response_logps(model, batch.to(device))
            found[layout] = gap(list(logps.detach()))
            slopes.append(torch.autograd.grad(logps.sum(), list(model.parameters()), allow_unused=True))
        if can_share(model):
            found["gradients"] = apart(*slopes)
        if can_copy(model):
            with torch.no_grad():
                logps = candidate_logps(model, Encoded(built), CASES)
                found["candidates"] = gap([torch.tensor(row, device=device) for row in logps])
                model.generation_config.eos_token_id, model.generation_config.pad_token_id = 5, PAD
                inputs = moved(built.prompts(PROMPTS, CASES[:2]), device)
                theirs = model.generate(**inputs, do_sample=False, max_new_tokens=8)[:, inputs["input_ids"].shape[1] :]
                ours = decode(model, prefill(model, inputs), torch.tensor([8, 8]), 0.0, 1.0)[:, : theirs.shape[1]]
                found["greedy parted"] = ((ours >= 0) & (ours != theirs)).any(1).sum().item()
    return found, LIMITS[dtype]


def apart(some: tuple, others: tuple) -> float:
    """The largest distance of two gradients of one parameter, relative to its norm or to a hundredth of the largest."""
    pairs = [(a, b) for a, b in zip(some, others, strict=True) if a is not None or b is not None]
    floor = max(a.norm().item() for a, _ in pairs) / 100
    return max((b - a).norm().item() / max(a.norm().item(), floor) for a, b in pairs)


def model(device: torch.device, work: Path, small: bool) -> Rows:
    """The random LLaVA-NeXT that other parts read."""
    from shapes import SHAPES, save_model

    shape = SHAPES["tiny" if small else "1B"]
    save_model(shape, work / "model", device.type)
    held = sum(file.stat().st_size for file in (work / "model").glob("*.safetensors"))
    yield {"layers": shape.layers, "width": shape.width, "vocabulary": shape.vocab, "parameters, M": held / 4e6}


def checkpoints(device: torch.device, work: Path, small: bool) -> Rows:
    """stage=check of tiny models of published checkpoints, in one process."""
    from hub import FOLDERS, INTERNVL, MISTRAL, QWEN25, tiny_checkpoint
    from hydra import compose, initialize_config_dir

    from rationale.command.runs import CONF, call

    def checked(folder: str) -> tuple[dict[str, Any], dict[str, float]]:
        given = [f"model.path={tiny_checkpoint(folder, work / folder)}", "model.family=null", "check.max_new_tokens=8",
                 f"device={device.type}", f"trainer={'cpu' if device.type == 'cpu' else 'gpu'}"]  # fmt: skip
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", ["stage=check", *given])
        with contextlib.redirect_stdout(io.StringIO()) as said:
            call(config.stage)[2](Path())
        return page(said.getvalue()), {}

    for folder in (MISTRAL, QWEN25, INTERNVL) if small else FOLDERS:
        yield from attempt(partial(checked, folder), checkpoint=folder.replace("__", "/"))


def zero(device: torch.device, work: Path, small: bool) -> Rows:
    """DPO of the miniature by the plain trainer, then under ZeRO-2 and 3 on one device."""
    from safetensors.torch import load_file
    from sharded import train

    from rationale.sources import tasks
    from rationale.stages import prepare

    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
        # It would be compiled for a minute, and one process has no use for it.
        import_module("deepspeed.comm.torch").build_shm_op = lambda: None
    (questions := work / "questions").mkdir()
    prepare.run(tasks.mini({"train": 4}, questions_per_image=2, held_out_per_image=0, seed=0), questions)
    mini = ROOT / "experiments/mini_base/model"
    ends = {"start": load_file(mini / "model.safetensors")}

    def distance(one: str, other: str) -> float:
        found, plain = (torch.cat([ends[w][n].flatten() for n in ends["start"]]) for w in (one, other))
        return ((found - plain).norm() / plain.norm()).item()

    def trained(strategy: str) -> tuple[dict[str, Any], dict[str, float]]:
        out, begun = work / strategy, time.monotonic()
        out.mkdir()
        train(str(mini), str(questions), "dpo", strategy, "tree", 1, out, accelerator=device.type, lr=1e-4)
        seconds, ends[strategy] = time.monotonic() - begun, load_file(out / "model/model.safetensors")
        *_, last = json.loads((out / "steps.json").read_text(encoding="utf-8")).items()
        moved, apart = distance(strategy, "start"), distance(strategy, "auto")
        return {"steps": int(last[0]), "seconds": seconds, "last loss": last[1]["train/loss"], "moved": moved,
                "weights": apart}, {"weights": 1e-4}  # fmt: skip

    for strategy in ("auto", "zero2", "zero3"):
        yield from attempt(partial(trained, strategy), strategy=strategy)


def memory(device: torch.device, work: Path, small: bool) -> Rows:
    """Peak bytes of three steps of SFT and of DPO, two responses of 70 to 120 words to an image, against the plan's."""
    from common import OPTIM, fit_ours, in_order
    from shapes import SHAPES, responses, save_images

    from rationale.models.checks import image_token
    from rationale.models.encode import Encoder
    from rationale.models.vlm import load
    from rationale.objectives.dpo import Objective
    from rationale.planning.memory import held
    from rationale.planning.sizes import sizes_of
    from rationale.tools.check import rows_of
    from rationale.training.dpo import DPOModule, dpo_data
    from rationale.training.sft import SFTModule, sft_data

    pairs = responses(save_images(SHAPES["tiny" if small else "1B"], work, 3), 2)
    order, counted = partial(in_order, micro_batch=1), counts_memory(device)
    vlm = load(str(work / "model"), device=device.type)
    encoder, sizes = Encoder(vlm.processor, layout="tree"), sizes_of(vlm.model)
    batch = encoder.batch(pairs[0])
    rows = rows_of(batch, image_token(vlm), batch.inputs["pixel_values"].numel() // sizes.pixels)

    def trained(what: str) -> tuple[dict[str, Any], dict[str, float]]:
        vlm.model.to(device)  # from where Lightning left it
        if what == "SFT":
            module, reference = SFTModule(vlm, OPTIM, 3), None
            data = sft_data(encoder, [e for pair in pairs for e in pair], order, group_by="image")
        else:
            module, reference = DPOModule(vlm, Objective(), "frozen", OPTIM, 3), "frozen"
            data = dpo_data(encoder, [tuple(pair) for pair in pairs], order)
        if counted:
            torch.accelerator.reset_peak_memory_stats()
        seconds = fit_ours(module, data, device.type, "float32" if small else "bfloat16").seconds()
        peak = torch.accelerator.max_memory_allocated() / 2**30 if counted else None
        kind = "cpu" if device.type == "cpu" else "gpu"
        plan = held(sizes, rows, kind, 1, 4 if small else 2, False, reference).total / 2**30
        share = {"of the plan": peak / plan} if counted else {}
        return {"tokens": rows.tokens, "seconds": min(seconds), "peak GiB": peak, "GiB planned": plan, **share}, {}

    for what in ("SFT", "DPO"):
        yield from attempt(partial(trained, what), training=what)


PARTS = {part.__name__: part for part in (machine, families, model, checkpoints, zero, memory)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("name", choices=PARTS)
    options.add_argument("--json", type=Path, required=True)
    options.add_argument("--work", type=Path, required=True)
    options.add_argument("--device", default="auto")
    options.add_argument("--small", action="store_true")
    args = options.parse_args()
    rows: list[dict[str, Any]] = []
    for row in PARTS[args.name](use(device_of(args.device)), args.work, args.small):
        rows.append(row)
        args.json.write_text(json.dumps(rows), encoding="utf-8")
        print(row, flush=True)
    raise SystemExit(any(row.get("failed") for row in rows))


if __name__ == "__main__":
    main()
