"""A stage's batches, each a shard that is renamed when whole, by one process or shared by several."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from rationale.artifacts import PartDone, UserError
from rationale.settings import Count, settings

JOINED = [1]  # how many processes shared each stage so far, for the manifest
PATIENCE = timedelta(days=30)  # that a process waits for the others at the end of its part


@dataclass(frozen=True)
class Share:
    """The part of a stage's shards that this process makes: every `world`-th, from `rank` on."""

    rank: int = 0
    world: int = 1
    fabric: Any = None
    children: Sequence[subprocess.Popen] = ()  # the other processes, where this one started them
    parent: int = field(default_factory=os.getppid)

    def of(self, number: int) -> range:
        """The numbers of its shards."""
        return range(self.rank, number, self.world)

    def check(self) -> None:
        """Stop where the process that started this one is gone."""
        if os.getppid() != self.parent:
            raise UserError("the process that started this one has ended")

    def meet(self) -> None:
        """Wait for the others; UserError where one has ended."""
        if self.fabric is not None:
            try:
                self.fabric.barrier()
            except RuntimeError as error:  # gloo's, of a connection that broke
                raise UserError("another process has ended before its part was done") from error

    def end(self) -> None:
        """Wait for the others, and let the first process alone go on."""
        self.meet()
        if self.fabric is not None:
            import torch

            torch.distributed.destroy_process_group()  # a training of the same run sets up its own
        if self.rank:
            raise PartDone


@settings
class Processes:
    """How many processes share the batches: `devices` of each of `num_nodes` machines, as a training's. A number, or
    all accelerators (auto, -1). Lightning Fabric starts them; under torchrun and SLURM they are there."""

    devices: int | Literal["auto"] = 1
    num_nodes: Count = 1

    def join(self) -> Share:
        """This process's share. The others run the same command and join in the same place."""
        JOINED.append(1)
        if (self.devices, self.num_nodes) == (1, 1):
            return Share()
        import torch
        from lightning_fabric import Fabric
        from lightning_fabric.strategies import DDPStrategy

        number = max(1, torch.accelerator.device_count()) if self.devices in ("auto", -1) else self.devices
        # They meet and exchange nothing, so gloo is enough, whatever their models run on.
        strategy = DDPStrategy(process_group_backend="gloo", timeout=PATIENCE)
        fabric = Fabric(accelerator="cpu", devices=number, num_nodes=self.num_nodes, strategy=strategy)
        fabric.launch()
        JOINED.append(fabric.world_size)
        children = getattr(fabric.strategy.launcher, "procs", [])
        return Share(fabric.global_rank, fabric.world_size, fabric, children)


ALONE = Processes()


def in_shards(
    folder: Path,
    units: list[Any],
    work: Callable[[Any, Any], list[str]],
    label: str = "",
    share: Share | None = None,
    ahead: Callable[[Any], Any] = lambda unit: None,
) -> Path:
    """Lines of `work(unit, ahead(unit))` for every unit, in order, as `rows.jsonl`; each unit is a shard.

    A run that is cut goes on with the units that have no shard, so no line is lost or written twice, whatever the
    number of processes then and now. `ahead` runs for the next unit while `work` does this one. Of several processes
    the first alone comes back, when all have done their part.
    """
    share = share or Share()
    shards, rows = folder / "shards", folder / "rows.jsonl"
    places = [shards / f"{index:06d}.jsonl" for index in range(len(units))]
    whole = rows.exists()  # cut off after the last unit
    share.meet()  # so that all have looked before the first moves them
    if not whole:
        shards.mkdir(exist_ok=True)
        with named(share, places, label):
            todo = [index for index in share.of(len(units)) if not places[index].exists()]
            with tqdm(total=len(units), desc=label, unit="batch", mininterval=2, disable=share.rank > 0) as bar:
                bar.update(len(units) - len(todo) * share.world)
                for index, found in prepared(todo, lambda index: ahead(units[index])):
                    share.check()
                    partial = places[index].with_suffix(f".{os.getpid()}.partial")
                    partial.write_text("".join(work(units[index], found)), encoding="utf-8")
                    os.replace(partial, places[index])
                    bar.update(share.world)
            share.end()
        partial = folder / "rows.partial"
        with partial.open("wb") as file:
            for place in places:
                with place.open("rb") as shard:
                    shutil.copyfileobj(shard, file)
        os.replace(partial, rows)
    else:
        share.end()
    shutil.rmtree(shards, ignore_errors=True)
    return rows


def prepared(items: list[int], prepare: Callable[[int], Any]) -> Iterator[tuple[int, Any]]:
    """Each item and what `prepare` makes of it, the next one's in a thread beside whoever takes this one's."""
    with ThreadPoolExecutor(1) as thread:
        found = [thread.submit(prepare, item) for item in items[:1]]
        for place, item in enumerate(items):
            ready = found.pop().result()
            found += [thread.submit(prepare, following) for following in items[place + 1 : place + 2]]
            yield item, ready


@contextmanager
def named(share: Share, places: list[Path], label: str) -> Iterator[None]:
    """Where one of several processes ends before its part is done, a line names the shard that it was at. Those that
    this one started end with it, at once."""

    def report(rank: int, how: str) -> None:
        at = next((places[i].stem for i in range(rank, len(places), share.world) if not places[i].exists()), "its end")
        tqdm.write(
            f"rationale: {label}: process {rank} of {share.world} {how} at shard {at}; what is written stays, the same "
            "command goes on, with any number of processes", file=sys.stderr,
        )  # fmt: skip
        sys.stderr.flush()

    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            for rank, child in enumerate(share.children, share.rank + 1):
                if code := child.poll():
                    report(rank, f"was killed by {signal.Signals(-code).name}" if code < 0 else "failed")
                    for other in share.children:
                        other.kill()
                    os._exit(1)

    if share.children:
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    except Exception:
        if share.world > 1:
            report(share.rank, "stops")
        raise
    finally:
        over.set()
