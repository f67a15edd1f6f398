"""The load generator: one process with the servers behind the proxies in it, asked by lines of JSON."""

import json
import os
import resource
import select
import subprocess
from pathlib import Path


class Load:
    def __init__(self, program: Path, cores: set[int], realtime: bool):
        self.process = subprocess.Popen([str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=lambda: placed(cores, realtime))
        self.server = self._line(10)

    def ask(self, **command) -> dict:
        """One command to its end. Its times are seconds; the load's own limit stands behind them."""
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        self.process.stdin.flush()
        answer = json.loads(self._line(180))
        if error := answer.get("error"):
            raise LoadError(f"{command}: {error}")
        return answer

    def _line(self, seconds: float) -> str:
        # Answers are single lines of one write each, so a readable pipe has a whole one.
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            raise LoadError(f"the load generator said nothing for {seconds} s")
        line = self.process.stdout.readline().decode().strip()
        if not line:
            raise LoadError("the load generator ended")
        return line

    def stop(self) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)


class LoadError(Exception):
    pass


def placed(cores: set[int], realtime: bool) -> None:
    """Called in a new process before its program: its cores, and whether it goes before all other programs."""
    os.sched_setaffinity(0, cores)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files(), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    if realtime:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def open_files() -> int:
    """So many files each of the programs may have open."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 20_000 if hard == resource.RLIM_INFINITY else min(hard, 20_000)
