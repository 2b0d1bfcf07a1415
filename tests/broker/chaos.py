"""Kills, stops and continues workers at random, one of them now and then a twin in the other's slot."""

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
    """Two workers under attack. The second takes the slot of the first about every third time it starts."""

    def __init__(self, start: Start, seed: int) -> None:
        self._start = start
        self._random = random.Random(seed)
        self._workers = {"first": start("0"), "second": start("1")}
        self._stopped: dict[str, float] = {}
        self.faults: Counter[str] = Counter()
        self.exits: Counter[int] = Counter()

    def attack(self, faults: int) -> None:
        """Do `faults` faults."""
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
        """Continue what was stopped long enough, and start again what has ended, as a supervisor would."""
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
        if self._random.random() < 0.35:
            self.faults["twin"] += 1
            return "0"
        return "1"

    def calm(self) -> None:
        """No more faults: continue what is stopped, and let each worker have a slot of its own."""
        for name in list(self._stopped):
            self._workers[name].send_signal(signal.SIGCONT)
        self._stopped.clear()
        self._workers["second"].kill()
        self._workers["second"].wait()
        self._workers["second"] = self._start("1")
        self._random = random.Random(0)
        self._slot = lambda name: {"first": "0", "second": "1"}[name]  # type: ignore[method-assign] # twins are over

    def end(self) -> None:
        """Kill whatever is left."""
        for process in self._workers.values():
            if process.poll() is None:
                process.kill()
            process.wait()
