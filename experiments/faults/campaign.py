"""Interrupt every stage in every way and count what is lost.  make faults

Each stage of the smallest whole run is first run uncut. Then it is killed (SIGKILL) again and again at random moments,
told to stop (SIGTERM), run on a disk that is full at a random point, and run by two processes at once; a distillation
over HTTP also meets a server with faults. Each time the same command then runs to its end, and what it made is compared
with the uncut artifact, byte for byte. Ends with 1 where a row is lost or doubled, a file differs, or a failure is not
told in a clear line.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from stages import AS_ANOTHER, STAGES, Stage, begin, disk, ended, lay, server, strike, trials, uncut

from rationale.hashes import CARD, MANIFEST, output_hashes
from rationale.stopping import REQUEUE

KINDS = ("killed", "told to stop", "disk full", "two at once", "server faults")
PER_TRIAL = 5  # kills before a run is left to end
FULL = "No space left on device"


@dataclass
class Count:
    """What a campaign did and what was wrong after it."""

    stage: str
    kind: str
    runs: int = 0
    faults: int = 0
    lost: int = 0  # rows
    doubled: int = 0  # rows
    differ: int = 0  # artifacts
    unclear: int = 0  # ends that no clear line or code tells
    notes: str = ""


def compare(count: Count, stage: Stage, base: Path, folder: Path, more: Callable[[], list[str]] = list) -> None:
    """Run the command to its end and count what differs from the uncut artifact."""
    count.runs += 1
    code = ended(begin(stage, folder, *more()))
    whole, found = (place / "runs/mini_small" / stage.out for place in (base, folder))
    left = list(found.parent.glob(f".{found.name}.*.partial"))
    if code != 0 or left:
        count.unclear += 1
        count.notes += f" code {code} in {folder.name}, left {len(left)};"
        return
    named = (MANIFEST, CARD)  # times and the commit stand there
    expected, made = (
        {name: digest for name, digest in output_hashes(place).items() if Path(name).name not in named}
        for place in (whole, found)
    )
    images = [sorted(path.name for path in (place / "images").glob("*")) for place in (whole, found)]
    if expected != made or images[0] != images[1]:
        count.differ += 1
        names = [name for name in expected.keys() | made.keys() if expected.get(name) != made.get(name)]
        count.notes += f" {', '.join(sorted(names)[:3]) or 'images'} in {folder.name};"
    for name in {name for name in expected.keys() | made.keys() if name.endswith(".jsonl")}:
        before, after = (rows(place / name) for place in (whole, found))
        count.lost += (before - after).total()
        count.doubled += sum(number - before[row] for row, number in after.items() if number > max(before[row], 1))
    if expected == made:
        shutil.rmtree(folder, ignore_errors=True)  # what a disk is mounted on stays


def rows(path: Path) -> Counter:
    """Lines of a file, none where it is absent."""
    return Counter(path.read_bytes().splitlines()) if path.exists() else Counter()


def killed(stage: Stage, base: Path, rng: random.Random, number: int, more: Callable[[], list[str]] = list) -> Count:
    """`number` kills at random moments, a few of each run before it is left to end."""
    count = Count(stage.name, "killed")
    for folder in trials(base, stage, "killed"):
        for _ in range(PER_TRIAL):
            count.runs += 1
            code = strike(begin(stage, folder, *more()), signal.SIGKILL, rng.uniform(0, stage.seconds))
            count.faults += code == -signal.SIGKILL
        compare(count, stage, base, folder, more)
        if count.faults >= number:
            return count


def told(stage: Stage, base: Path, rng: random.Random, number: int) -> Count:
    """SIGTERM and a scheduler's SIGUSR1: the code that asks to be queued again, and a line that says so."""
    count = Count(stage.name, "told to stop")
    for folder in trials(base, stage, "told"):
        by = rng.choice([signal.SIGTERM, signal.SIGUSR1])
        count.runs += 1
        # Not in the first moments, when the command does not yet listen: what ends it then is the signal itself.
        code = strike(begin(stage, folder), by, rng.uniform(0.2, 1) * stage.seconds)
        if code not in (None, 0):
            count.faults += 1
            said = (folder / "log.txt").read_text(errors="replace", encoding="utf-8")
            if code != REQUEUE or "told to stop" not in said:
                count.unclear += 1
                count.notes += f" code {code} of {by.name} in {folder.name};"
        compare(count, stage, base, folder)
        if count.faults >= number or count.runs > 6 * number:
            return count


def disk_full(stage: Stage, base: Path, rng: random.Random, number: int) -> Count:
    """A disk that is full at a random point: a clear line, no artifact; with more room the same command goes on."""
    count = Count(stage.name, "disk full")
    out = Path("runs/mini_small") / stage.out
    size = sum(path.stat().st_size for path in (base / out).rglob("*") if path.is_file())
    for trial in range(3 * number):
        folder = base.parent / f"{stage.name} disk {trial}".replace(",", "").replace(" ", "_")
        with disk(folder, 1 << 20) as resize:
            lay(base, folder, stage.out)
            used = sum(path.lstat().st_blocks for path in folder.rglob("*")) * 512
            resize(used + 65536 + int(rng.uniform(0, 1.1) * size))
            (folder / "log.txt").symlink_to(folder.parent / f"log_{folder.name}.txt")
            count.runs += 1
            code = ended(begin(stage, folder))
            if code != 0:
                count.faults += 1
                said = (folder / "log.txt").read_text(errors="replace", encoding="utf-8")
                if FULL not in said or "Traceback" in said or (folder / out).exists():
                    count.unclear += 1
                    count.notes += f" code {code}, see log_{folder.name}.txt;"
            resize(1 << 28)
            before = count.differ, count.unclear
            compare(count, stage, base, folder)
            if (count.differ, count.unclear) != before and folder.exists():
                shutil.copytree(folder, f"{folder}_kept", symlinks=True)
        if count.faults >= number:
            break
    return count


def twice(stage: Stage, base: Path, number: int) -> Count:
    """Two processes begin the same command at once: one makes the artifact, the other waits and finds it."""
    count = Count(stage.name, "two at once")
    for folder in trials(base, stage, "twice"):
        count.runs += 2
        count.faults += 1
        codes = [ended(child) for child in (begin(stage, folder), begin(stage, folder))]
        said = (folder / "log.txt").read_text(errors="replace", encoding="utf-8")
        if codes != [0, 0] or said.count("is up to date") != 1:
            count.unclear += 1
            count.notes += f" codes {codes} in {folder.name};"
        compare(count, stage, base, folder)
        if count.faults >= number:
            return count


def away(stage: Stage, base: Path, rng: random.Random, number: int) -> Count:
    """The server's faults and kills of the asking run at once; the address is no part of what is compared."""
    total = Count(stage.name, "server faults")
    while total.faults < number:
        with server(rng) as address:
            found = killed(stage, base, rng, 1, lambda address=address: [f"{stage.address}={address}"])
        for name in ("runs", "faults", "lost", "doubled", "differ", "unclear", "notes"):
            setattr(total, name, getattr(total, name) + getattr(found, name))
    return total


def campaign(job: tuple[Stage, str, Path, int, int]) -> Count:
    """One kind of fault on one stage."""
    stage, kind, base, number, seed = job
    rng = random.Random(f"{seed} {stage.name} {kind}")
    if stage.address:
        return away(stage, base, rng, number)
    if kind == "killed":
        return killed(stage, base, rng, number)
    if kind == "told to stop":
        return told(stage, base, rng, -(-number // 4))
    return disk_full(stage, base, rng, -(-number // 4)) if kind == "disk full" else twice(stage, base, -(-number // 10))


def private_mounts() -> bool:
    """Whether this process may mount; begins it again where only that it was not asked for stands against it."""
    if "RATIONALE_FAULTS" in os.environ:
        return os.environ["RATIONALE_FAULTS"] == "mounts"
    apart = ["unshare", "--user", "--map-root-user", "--mount"]
    os.environ |= {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}  # before torch reads it
    can = shutil.which("unshare") and subprocess.run([*apart, "true"], check=False, capture_output=True).returncode == 0
    os.environ["RATIONALE_FAULTS"] = "mounts" if can else "none"
    os.execvp(apart[0] if can else sys.executable, [*(apart if can else []), sys.executable, *sys.argv])


def table(counts: list[Count]) -> str:
    """A row for each kind of fault, and one for all."""
    head = [
        "fault",
        "stages",
        "runs",
        "faults injected",
        "rows lost",
        "rows doubled",
        "artifacts that differ",
        "unclear ends",
    ]
    numbers = ("runs", "faults", "lost", "doubled", "differ", "unclear")
    lines = [head, ["---"] * len(head)]
    for kind in [*KINDS, None]:
        own = [count for count in counts if kind in (None, count.kind)]
        sums = [str(sum(getattr(count, name) for count in own)) for name in numbers]
        lines.append([kind or "all", str(len({count.stage for count in own})), *sums])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=20, help="kills of each stage")
    parser.add_argument("--jobs", type=int, default=2, help="campaigns at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], help="names of stages")
    parser.add_argument("--folder", type=Path, default=Path("runs/faults"))
    parser.add_argument("--json", type=Path, help="where to write the counts")
    asked = parser.parse_args()
    mounts = private_mounts()
    import pytorch_lightning  # noqa: F401 - heavy: read once here, and not by each of the forked runs
    import transformers  # noqa: F401

    folder = asked.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "uncut").mkdir(parents=True)
    started = time.monotonic()
    uncut(folder / "uncut")
    chosen = [s for s in STAGES if s.name not in AS_ANOTHER and (not asked.only or s.name in asked.only)]
    kinds = [kind for kind in KINDS[:4] if mounts or kind != "disk full"]
    jobs = [
        (stage, kind, folder / "uncut", asked.number, asked.seed)
        for stage in sorted(chosen, key=lambda stage: -stage.seconds)
        for kind in (["server faults"] if stage.address else kinds)
    ]
    counts = []
    with multiprocessing.get_context("fork").Pool(asked.jobs, maxtasksperchild=1) as pool:
        for count in pool.imap_unordered(campaign, jobs, chunksize=1):
            counts.append(count)
            print(f"{count.stage}, {count.kind}: {asdict(count)}", flush=True)
    print(f"\n{table(counts)}\n\n{(time.monotonic() - started) / 60:.1f} minutes")
    if not mounts:
        print("disk full: left out, for this machine allows no private mounts")
    if asked.json:
        asked.json.write_text(json.dumps([asdict(count) for count in counts], indent=1) + "\n", encoding="utf-8")
    if any(c.lost or c.doubled or c.differ or c.unclear for c in counts):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
