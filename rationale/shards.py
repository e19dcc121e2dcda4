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
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from rationale.artifacts import OtherEnded, PartDone, UserError, check_parent, main_process
from rationale.provenance import USED
from rationale.settings import Count, settings
from rationale.stopping import REQUEUE, Stopped

STARTED: list[subprocess.Popen] = []  # the run's other processes on this machine, where this one started them
PATIENCE = timedelta(days=30)  # that a process waits for the others at the end of its part


@dataclass(frozen=True)
class Share:
    """The part of a stage's shards that this process makes: every `world`-th, from `rank` on."""

    rank: int = 0
    world: int = 1
    group: Any = None
    children: Sequence[subprocess.Popen] = ()  # STARTED

    def of(self, number: int) -> range:
        """The numbers of its shards."""
        return range(self.rank, number, self.world)

    def meet(self) -> None:
        """Wait for the others; OtherEnded where one has ended."""
        if self.group is not None:
            import torch

            options = torch.distributed.BarrierOptions()
            options.timeout = PATIENCE
            try:
                self.group.barrier(options).wait()
            except RuntimeError as error:  # gloo's, of a connection that broke
                raise OtherEnded("another process has ended before its part was done") from error

    def end(self) -> None:
        """Wait for the others, and let the first process alone go on."""
        self.meet()
        if self.rank:
            raise PartDone


@settings
class Processes:
    """How many processes share the batches: `devices` of each of `num_nodes` machines, as a training's. A number, or
    all accelerators (auto, -1). Lightning Fabric starts them; under torchrun and SLURM they are there."""

    devices: int | Literal["auto"] = 1
    num_nodes: Count = 1

    def join(self, out: Path, alone: bool = False) -> Share:
        """This process's share of what fills the folder `out`. The others run the same command and join as well.

        `alone` leaves all to the first process, as where an endpoint answers: its limits and its budget are those of
        one.
        """
        USED["processes"] = 1
        if alone and not main_process():
            raise PartDone
        if alone or (self.devices, self.num_nodes) == (1, 1):
            return Share()
        import torch
        from lightning_fabric import Fabric
        from lightning_fabric.strategies import DDPStrategy
        from torch.distributed import PrefixStore, ProcessGroupGloo, rendezvous

        number = max(1, torch.accelerator.device_count()) if self.devices in ("auto", -1) else self.devices
        try:
            fabric = Fabric(accelerator="cpu", devices=number, num_nodes=self.num_nodes, strategy=DDPStrategy())
            fabric.strategy.launcher.launch(lambda: None)
        except (ValueError, RuntimeError) as error:  # Lightning's, of torchrun's or SLURM's numbers
            raise UserError(f"trainer.devices={number}, trainer.num_nodes={self.num_nodes}: {error}") from error
        STARTED.extend(getattr(fabric.strategy.launcher, "procs", ()))  # by the first stage of a run that has several
        place = fabric.strategy.cluster_environment
        rank, world = place.node_rank() * number + place.local_rank(), self.num_nodes * number
        os.environ |= {"MASTER_ADDR": place.main_address, "MASTER_PORT": str(place.main_port)}
        # A group of their own beside that of trainings, which stays from the first to the last of a run: under torchrun
        # none is set up twice. They meet and exchange nothing, so gloo is enough, whatever their models run on.
        store, *_ = next(rendezvous("env://", rank, world))
        group = ProcessGroupGloo(PrefixStore(str(out), store), rank, world)
        USED["processes"] = world
        return Share(rank, world, group, STARTED)


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
                    check_parent()
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

    def at(rank: int) -> str:
        missing = (place.stem for place in places[rank :: share.world] if not place.exists())
        return next(missing, "its end")

    def report(how: str) -> None:
        tqdm.write(
            f"rationale: {label}: {how}; what is written stays, the same command goes on, with any number of processes",
            file=sys.stderr,
        )
        sys.stderr.flush()

    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            for rank, child in enumerate(share.children, share.rank + 1):
                if code := child.poll():
                    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else "failed"
                    how = "was told to stop" if code == REQUEUE else how
                    report(f"process {rank} of {share.world} {how} at shard {at(rank)}")
                    for other in share.children:
                        other.kill()
                    os._exit(max(code, 1))

    if share.children:
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    except (OtherEnded, Stopped):  # which other, only its launcher knows; of two processes one is left to say where
        over.wait(1.0 if share.children else 0.0)  # started here, it is named above
        if share.world > 1 and share.rank < 2:
            report(f"processes 0 to {share.world - 1} were at shards {', '.join(map(at, range(share.world)))}")
        raise
    except Exception:
        if share.world > 1:
            report(f"process {share.rank} of {share.world} stops at shard {at(share.rank)}")
        raise
    finally:
        over.set()
