"""Named steps, printed with PASS or FAIL as they end, and counted."""

import os
import sys
import threading
import time
import traceback
from contextlib import contextmanager


class Steps:
    def __init__(self, title: str):
        self.title = title
        self.passed = 0
        self.failed: list[str] = []
        self._lock = threading.Lock()

    @contextmanager
    def step(self, name: str):
        """Run the body as one step: an exception fails the step, and the story goes on."""
        begun = time.monotonic()
        try:
            yield
        except Exception as error:  # a step may fail in any way; the next one is still told
            self._end("FAIL", name, begun, describe(error))
        else:
            self._end("PASS", name, begun, "")

    def _end(self, verdict: str, name: str, begun: float, detail: str) -> None:
        with self._lock:
            if verdict == "PASS":
                self.passed += 1
            else:
                self.failed.append(name)
            print(f"{verdict}  {name}  ({time.monotonic() - begun:.2f} s)", flush=True)
            if detail:
                print("      " + detail.replace("\n", "\n      "), flush=True)

    def finish(self) -> int:
        """Print the sum, leave it for the caller's sum, and give the exit code."""
        line = f"{self.title}: {self.passed} passed, {len(self.failed)} failed"
        print(line, flush=True)
        if counts := os.environ.get("ORRERY_COUNTS"):
            with open(counts, "a") as file:
                file.write(line + "\n")
        return 1 if self.failed or not self.passed else 0


def describe(error: Exception) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if ("/tests/" in f.filename or "/bench/" in f.filename) and not f.filename.endswith("/harness/steps.py")]
    place = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}: {frames[-1].line}" if frames else ""
    return f"{type(error).__name__}: {error}"[:3000] + (f"\nat {place}" if place else "")


def same(got, expected, what: str) -> None:
    """An assertion that says both sides, so that a failure is readable alone."""
    if got != expected:
        raise AssertionError(f"{what}: expected {expected!r}, got {got!r}")


def require(condition, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def wait_until(condition, what: str, seconds: float = 30, pause: float = 0.1):
    """The first true value of `condition()`, or an assertion that names what never came."""
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds} s")
        time.sleep(pause)


def exit_with(code: int) -> None:
    sys.stdout.flush()
    sys.exit(code)
