"""Kill training at random moments (SIGKILL), run it again, and compare with the run that nobody disturbed.

    python -m tests.faults.kill_trials --data PREPARED --out DIRECTORY [--trials 20] [--ray 3] [--seed 0]

A trial kills once or twice: its process (fast form), or, through Ray with two workers, in turn a worker,
the driver, the whole tree of processes. Each line says what was killed and where that left the run. A trial
is passed when the weights equal the undisturbed run's to the bit, each step was taken on the same cells with
none skipped or repeated, and metrics are there once. Exit status 1 if one is not.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.faults import recorded_training
from tests.faults.recorded_training import sequence
from tests.faults.train_until_killed import import_once
from tests.small_atlas import metrics_of
from tests.tree_bytes import tree_bytes

ROOT = Path(__file__).parents[2]
RAY_VICTIMS = ("worker", "driver", "tree")
PATIENCE = 300.0


class Forked:
    """Training in a fork of this process, which has imported all that costs seconds; told as by Popen."""

    def __init__(self, data: Path, run: Path, log: Path) -> None:
        self._log = log
        fork = multiprocessing.get_context("fork")
        self._process = fork.Process(target=self._train, args=(data, run))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def _train(self, data: Path, run: Path) -> None:
        with open(self._log, "ab") as log:
            os.dup2(log.fileno(), sys.stdout.fileno())
            os.dup2(log.fileno(), sys.stderr.fileno())
        recorded_training.main(data, run, 0)

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        return self._process.exitcode


Training = Forked | subprocess.Popen[bytes]


class Trials:
    """Trials of one form against its undisturbed run, all in one directory."""

    def __init__(self, data: Path, directory: Path, workers: int, seed: int) -> None:
        self.data, self.directory, self.workers = data, directory, workers
        self.random = random.Random(seed)
        directory.mkdir(parents=True)
        self.whole = directory / "whole"
        self.finish(self.start(self.whole))
        self.rows = len(metrics_of(self.whole))

    def start(self, run: Path) -> Training:
        """Training as another process; through Ray in a session of its own, with all that belongs to it."""
        self.log = Path(f"{run}.log")
        if not self.workers:
            return Forked(self.data, run, self.log)
        program = [sys.executable, "-m", "tests.faults.recorded_training"]
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                [*program, str(self.data), str(run), str(self.workers)],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def finish(self, training: Training) -> None:
        """Wait for its end. Raises RuntimeError with its last words where that is not a success."""
        if training.wait(PATIENCE) != 0:
            raise RuntimeError(self.log.read_text()[-2000:])

    def trial(self, number: int) -> str:
        """One trial; a line on what was killed and whether the run is the undisturbed one."""
        run, killed = self.directory / f"trial-{number}", []
        for _ in range(self.random.choice((1, 1, 2))):
            victim = RAY_VICTIMS[number % 3] if self.workers else "process"
            training = self.start(run)
            # Anywhere from the first row of metrics to some way behind the last, and between two rows.
            rows, seconds = self.random.randrange(self.rows + 5), self.random.uniform(0, 0.1)
            reached = self._kill_after(training, run, victim, rows, seconds)
            killed.append(f"{victim if reached else 'nothing'} {place(run)}")
            if victim == "worker" or not reached:
                # Ray itself brings the workers back, and the run goes on to its end.
                self.finish(training)
                break
        self.finish(self.start(run))
        wrong = list(self.differences(run))
        return f"trial {number}: killed {', '.join(killed)}: {', '.join(wrong) or 'the same run'}"

    def _kill_after(self, training: Training, run: Path, victim: str, rows: int, seconds: float) -> bool:
        """Kill when there are so many rows, and some seconds later; whether there was something to kill."""
        wait_for(run / "metrics.jsonl", rows, training)
        time.sleep(seconds)
        if training.poll() is not None:
            return False
        driver = psutil.Process(training.pid)
        below = driver.children(recursive=True)
        workers = [p for p in below if "RayTrainWorker" in p.name()]
        if victim == "worker":
            for process in workers[:1]:
                process.kill()
            return bool(workers)
        driver.kill()
        if victim == "tree":
            for process in below:
                process.kill()
        training.wait()
        # Ray's processes end when they find their driver gone: the machine is free then.
        psutil.wait_procs(below, timeout=60)
        return True

    def differences(self, run: Path) -> Iterator[str]:
        """What is not as in the undisturbed run; nothing, if the trial is passed."""
        if tree_bytes(run / "model") != tree_bytes(self.whole / "model"):
            yield "OTHER WEIGHTS"
        steps = [Path(f"{path}.steps") for path in (run, self.whole)]
        for rank in range(max(1, self.workers)):
            if sequence(steps[0], rank) != sequence(steps[1], rank):
                yield f"OTHER CELLS of worker {rank}"
        if metrics_of(run) != metrics_of(self.whole):
            yield "OTHER METRICS"


def wait_for(metrics: Path, rows: int, training: Training) -> None:
    """Return when there are so many rows of metrics, or the model is there, or training has ended."""
    until = time.monotonic() + PATIENCE
    while training.poll() is None and time.monotonic() < until:
        if (metrics.parent / "model").exists():
            return
        if metrics.exists() and metrics.read_text().count("\n") >= rows:
            return
        time.sleep(0.005)


def place(run: Path) -> str:
    """Where a run stands: ``at autoencoder 600``."""
    metrics = run / "metrics.jsonl"
    rows = metrics_of(run) if metrics.exists() and metrics.read_text().endswith("\n") else []
    if (run / "model").exists():
        return "when all was done"
    return f"at {rows[-1]['stage']} {rows[-1]['cells_seen']}" if rows else "before the first row"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--ray", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    shutil.rmtree(asked.out, ignore_errors=True)
    failed = 0
    import_once()
    for form, workers, n in (("process", 0, asked.trials), ("ray", 2, asked.ray)):
        if n:
            trials = Trials(asked.data.resolve(), asked.out.resolve() / form, workers, asked.seed)
            print(f"{form}: undisturbed, {trials.rows} rows of metrics", flush=True)
            for number in range(n):
                line = trials.trial(number)
                failed += not line.endswith("the same run")
                print(f"{form} {line}", flush=True)
    print(f"{failed} of {asked.trials + asked.ray} trials failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
