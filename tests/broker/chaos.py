"""Kills, stops and continues workers at random; now and then the second one starts in the slot of the first."""

import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable

Start = Callable[[str], subprocess.Popen[bytes]]

STOPS_S = (0.5, 1.0, 4.0, 5.0)
"""Below and above the workers' session timeout of 3 s."""


class Chaos:
    """Attacks two workers. Every third time the second one starts again, it takes the slot of the first."""

    def __init__(self, start: Start, seed: int) -> None:
        self._start = start
        self._random = random.Random(seed)
        self._workers = {"first": start("0"), "second": start("1")}
        self._stopped: dict[str, float] = {}
        self._returns = 0
        self.faults: Counter[str] = Counter()
        self.exits: Counter[int] = Counter()

    def attack(self, faults: int) -> None:
        """Inflict this number of kills and stops."""
        while self.faults["kill"] + self.faults["stop"] < faults:
            time.sleep(self._random.uniform(0.3, 1.8))
            self.revive()
            name = self._random.choice(sorted(self._workers))
            if name in self._stopped or self._workers[name].poll() is not None:
                continue
            if self._random.random() < 0.6:
                self._workers[name].kill()
                self._workers[name].wait()
                self.faults["kill"] += 1
            else:
                self._workers[name].send_signal(signal.SIGSTOP)
                self._stopped[name] = time.monotonic() + self._random.choice(STOPS_S)
                self.faults["stop"] += 1

    def revive(self) -> None:
        """Continue workers that were stopped long enough, and restart those that have ended, as a supervisor would."""
        for name, process in self._workers.items():
            if name in self._stopped:
                if time.monotonic() > self._stopped[name]:
                    process.send_signal(signal.SIGCONT)
                    del self._stopped[name]
            elif process.poll() is not None:
                self.exits[process.returncode] += 1
                self._workers[name] = self._start(self._slot(name))

    def _slot(self, name: str) -> str:
        if name == "first":
            return "0"
        self._returns += 1
        if self._returns % 3 == 1:
            self.faults["twin"] += 1
            return "0"
        return "1"

    def calm(self) -> None:
        """End the attack: continue stopped workers, and give each worker a slot of its own."""
        for name in list(self._stopped):
            self._workers[name].send_signal(signal.SIGCONT)
        self._stopped.clear()
        self._workers["second"].kill()
        self._workers["second"].wait()
        self._workers["second"] = self._start("1")
        self._random = random.Random(0)
        self._slot = lambda name: {"first": "0", "second": "1"}[name]  # type: ignore[method-assign] # no more twins

    def end(self) -> None:
        """Kill the remaining workers."""
        for process in self._workers.values():
            if process.poll() is None:
                process.kill()
            process.wait()
