"""What a machine's accelerator makes of all this: values, texts, seconds and bytes, beside what they should be.

    make gpu            python experiments/gpu/run.py [--device cpu] [--small]

Every part is a process of its own with a time limit: one that fails or hangs leaves the others alone. found.json and
found.md say what came out. Ends with 1 where a part failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TOTAL = 580  # seconds for all parts
PATIENCE = 4  # times as long for all on a CPU, which may be shared
HUB = os.environ.get("RATIONALE_HUB_FILES")
SETTINGS = {
    "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1",
    "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0],  # TRL would take several
    **({"RATIONALE_HUB_FILES": os.path.abspath(HUB)} if HUB else {}),
}  # fmt: skip
# Of the part `families`: log p of a token (nats), gradients (relative), texts. Branches that see one another move log p
# there by 0.2 nats or more, and gradients by 0.4.
LIMITS = {
    "float32": {"rows": 1e-4, "tree": 1e-4, "candidates": 1e-4, "gradients": 1e-3, "greedy parted": 0},
    "bfloat16": {"rows": 0.1, "tree": 0.1, "candidates": 0.1, "gradients": 0.1},
}
SHOWS_FAMILIES = (
    "Every family at tiny size. `rows`, `tree`, `candidates`: the largest difference of log p of a token from "
    "transformers' own forward pass of unpadded rows. `gradients`: of `tree` from `rows`. `greedy parted`: of two "
    f"texts, those that are not `generate`'s. Limits: {json.dumps(LIMITS)}."
)


@dataclass(frozen=True)
class Part:
    """A command of Python's, what it shows, and the most seconds it may take. `lacks` is why it is not run."""

    name: str
    shows: str
    command: list[str]
    limit: float
    lacks: str | None = None


def parts(kind: str, named: str, small: bool, work: Path) -> Iterator[Part]:
    """All but the machine, on a device of this kind and name; those that need most time come last."""
    shape, dtype = ("tiny", "float32") if small else ("1B", "bfloat16")
    hardware = "cpu" if kind == "cpu" else "a100_8" if "A100" in named else "h100_8"
    check = ["-m", "rationale", "stage=check", f"root={work / 'runs'}", f"device={kind}", f"hardware={hardware}",
             f"trainer={'cpu' if kind == 'cpu' else 'gpu'}"]  # fmt: skip
    random = [f"model.path={work / 'model'}", "model.family=llava_next", "model.dtype=bfloat16",
              "trainer.precision=bf16-mixed"]  # fmt: skip
    own = {name: [str(HERE / "parts.py"), name, f"--work={work}", f"--device={kind}", *["--small"] * small]
           for name in ("families", "model", "memory", "zero", "checkpoints")}  # fmt: skip

    def bench(name: str, shape: str, dtype: str) -> list[str]:
        return [str(ROOT / f"experiments/speed/{name}.py"), f"--shape={shape}", f"--device={kind}", f"--dtype={dtype}",
                f"--steps={1 if small else 3}"]  # fmt: skip

    trl = None if find_spec("trl") else "trl is not installed: pip install trl==1.16.0"
    hub = None if HUB else "RATIONALE_HUB_FILES names no folder of processors"
    for name, shows, command, limit, lacks in (
        ("families", SHOWS_FAMILIES, own["families"], 120, None),
        ("check", "`stage=check` of the miniature.", check, 120, None),
        ("model", "A random LLaVA-NeXT for the next two.", own["model"], 120, None),
        ("check_random", "`stage=check` of it in bfloat16; planned for weights in float32.", check + random, 150, None),
        ("memory", f"Three steps of SFT and DPO of it, computed in {dtype}: their peak, of which a CPU has none, and "
         "`stage=plan`'s.", own["memory"], 120, None),
        ("zero", "Six steps of DPO of the miniature under ZeRO-2 and 3 on one device. `weights`: the difference from "
         "those of the plain trainer (`auto`), limit 1e-4; `moved`: from those at the start; both relative.",
         own["zero"], 150, None),
        ("sample_vs_generate", "32 responses to a question, float32.",
         bench("sample_vs_generate", "tiny" if small else "body-heavy", "float32"), 120, None),
        ("dpo_vs_trl", f"A step of DPO, {dtype}.", bench("dpo_vs_trl", shape, dtype), 180, trl),
        ("sft_vs_trl", f"A step of SFT, {dtype}.", bench("sft_vs_trl", shape, dtype), 120, trl),
        ("checkpoints", "`stage=check` of tiny models of published checkpoints, with their own processors.",
         own["checkpoints"], 240, hub),
    ):  # fmt: skip
        yield Part(name, shows, command, limit, lacks)


def run(part: Part, work: Path, left: float) -> dict[str, Any]:
    """What came of a part, within its limit and the seconds that are `left` for all."""
    found: dict[str, Any] = {"part": part.name, "shows": part.shows, "outcome": "not run", "seconds": 0.0}
    if part.lacks:
        return found | {"why": part.lacks}
    if left < 5:
        return found | {"outcome": "failed", "why": "no time was left"}
    checks, made, limit = part.command[0] == "-m", work / f"{part.name}.json", min(part.limit, left)
    told, logged, begun = work / f"{part.name}.out", work / f"{part.name}.err", time.monotonic()
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with told.open("wb") as stdout, logged.open("wb") as stderr:
        child = subprocess.Popen(
            [sys.executable, *part.command, *([] if checks else [f"--json={made}"])], stdout=stdout, stderr=stderr,
            cwd=work, env={**os.environ, **SETTINGS, "PYTHONPATH": paths, "TMPDIR": str(work)}, start_new_session=True,
        )  # fmt: skip
        try:
            why = f"ended with code {child.wait(limit)}"
        except subprocess.TimeoutExpired:
            why = f"not through after {limit:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # what it began ends with it
            child.wait()
    found |= {"outcome": "passed" if why.endswith("code 0") else "failed", "seconds": time.monotonic() - begun}
    said = told.read_text(encoding="utf-8", errors="replace")
    if checks:
        found["rows"] = [page(said)]
    elif made.is_file():
        read = json.loads(made.read_text(encoding="utf-8"))
        tables = said[said.find("**") :].strip()  # below what packages print
        found |= {"rows": read} if isinstance(read, list) else {"measured": read["shapes"], "table": tables}
    if found["outcome"] == "failed":
        lines = f"{said}\n{logged.read_text(encoding='utf-8', errors='replace')}".replace(str(work), "work")
        lines = [line for line in lines.replace(str(ROOT), ".").splitlines() if line.strip()]
        found |= {"why": why, "last": lines[-12:]}
    return found


def page(text: str) -> dict[str, Any]:
    """The numbers on stage=check's page."""
    found: dict[str, Any] = {}
    for layout, *gaps in re.findall(r"(\w+) against transformers: log p .* within (\S+), gradients within (\S+)", text):
        found[layout], found[f"{layout} gradients"] = map(float, gaps)
    found["greedy"] = "; ".join(re.findall(r"(\d+ of \d+) texts are those of transformers", text))
    steps = r"\b(SFT|DPO)\b.*?([\d.]+) s\b.*\(plan ([\d.]+)\), peak ([\d.]+) GiB .*\(plan ([\d.]+)\)"
    for what, *numbers in re.findall(steps, text):
        for name, number in zip(("s", "s planned", "peak GiB", "GiB planned"), numbers, strict=True):
            found[f"{what} {name}"] = float(number)
    return found


def markdown(found: dict[str, Any]) -> str:
    """The page for people."""
    machine = found["machine"]
    where = f"On {machine.get('name')}, shapes of {'tiny' if found['small'] else '1B'} size."
    if machine.get("device", "cpu") == "cpu":
        where = ("**No GPU was there.** All of this ran on a CPU, at tiny size: it shows that the parts run and how "
                 "this page looks, and nothing of a GPU.")  # fmt: skip
    about = ", ".join(f"{name} {value}" for name, value in machine.items() if value is not None)
    named = [{name: part.get(name) for name in ("part", "outcome", "seconds", "why")} for part in found["parts"]]
    text = [f"# What `make gpu` found, {found['date']}", where, f"{about}; commit {found['commit']}.", table(named)]
    for part in found["parts"][1:]:
        if part["outcome"] != "not run":
            text += [f"## {part['part']}", part["shows"], part.get("table") or table(part.get("rows") or [])]
            text += ["\n".join(["```text", *part["last"], "```"])] if "last" in part else []
    return "\n\n".join(filter(None, text)) + "\n"


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown; a column for each key that has a value, numbers with three digits that count."""

    def cell(value: Any) -> str:
        return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value).replace("|", "\\|")

    names = list(dict.fromkeys(name for row in rows for name, value in row.items() if value is not None))
    lines = [names, ["---"] * len(names), *([cell(row.get(name)) for name in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) if names else ""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", default="auto", choices=("auto", "cpu"))
    options.add_argument("--small", action="store_true", help="tiny shapes, as always on a CPU")
    options.add_argument("--out", type=Path, default=HERE, help="the folder of found.json and found.md")
    args, begun = options.parse_args(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        there = [str(HERE / "parts.py"), "machine", f"--work={work}", f"--device={args.device}"]
        done = [run(Part("machine", "What there is.", there, 90 * PATIENCE), work, TOTAL)]
        machine = (done[0].get("rows") or [{}])[0]
        kind = machine.get("device", "cpu").split(":")[0]
        if kind == "cpu":
            print("No accelerator is used: tiny shapes, which try the parts and measure nothing.", flush=True)
        small, patience = args.small or kind == "cpu", PATIENCE if kind == "cpu" else 1
        for part in parts(kind, machine.get("name", ""), small, work):
            part = replace(part, limit=part.limit * patience)
            last = run(part, work, TOTAL * patience - (time.monotonic() - begun))
            print(f"{part.name}: {last['outcome']}, {last['seconds']:.0f} s", last.get("why", ""), flush=True)
            done.append(last)
    commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    found = {"date": time.strftime("%Y-%m-%d"), "commit": commit.stdout.strip() or "unknown", "machine": machine,
             "small": small, "seconds": time.monotonic() - begun, "parts": done}  # fmt: skip
    (args.out / "found.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (args.out / "found.md").write_text(markdown(found), encoding="utf-8")
    print(markdown(found))
    raise SystemExit(any(part["outcome"] == "failed" for part in done))


if __name__ == "__main__":
    main()
