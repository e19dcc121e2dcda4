"""How the jobs that a sweep sent to SLURM stand, asked of the scheduler itself."""

from __future__ import annotations

from submitit.slurm.slurm import SlurmInfoWatcher, SlurmJob

# Whoever has none of these may still end well, or begin again. https://slurm.schedmd.com/squeue.html#lbAG
ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "REVOKED", "TIMEOUT",
}  # fmt: skip
GONE = "NO LONGER LISTED"


class Watcher(SlurmInfoWatcher):
    """Asks squeue. submitit asks sacct, which refuses on a cluster that keeps no accounting: then each call is an
    error in the log, and a job that was cancelled, and leaves no result, is waited for for ever."""

    def _make_command(self) -> list[str] | None:
        if not self._registered - self._finished:
            return None
        return ["squeue", "--me", "--states=all", "--array", "--noheader", "--format=%i|%T|%N"]

    def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
        """State and nodes by job. One that is no longer listed has ended, how only its result can tell."""
        text = string if isinstance(string, str) else string.decode()
        listed = {job: (state, nodes) for job, state, nodes in (line.split("|") for line in text.split())}
        found = {}
        for job in self._registered:
            state, nodes = listed.get(job, (GONE, ""))
            found[job] = {"JobID": job, "State": state if state in (*ENDED, GONE) else "RUNNING", "NodeList": nodes}
        return found


def watch() -> None:
    """Have submitit ask in this way, at most a minute after a job ended."""
    SlurmJob.watcher = Watcher(delay_s=60)
