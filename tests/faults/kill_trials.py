"""Kill training at random moments (SIGKILL), run it again, and compare with the run that nobody disturbed.

    python -m tests.faults.kill_trials --data PREPARED --out DIRECTORY [--trials 20] [--ray 3] [--seed 0]

A trial kills once or twice: its process (fast form), or, through Ray with two workers, in turn a worker,
the driver, the whole tree of processes. Each line says what was killed and where that left the run. A trial
is passed when the weights equal the undisturbed run's to the bit, each step was taken on the same cells with
none skipped or repeated, and metrics are there once. Exit status 1 if one is not.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.faults.recorded_training import sequence
from tests.small_atlas import metrics_of
from tests.tree_bytes import tree_bytes

ROOT = Path(__file__).parents[2]
RAY_VICTIMS = ("worker", "driver", "tree")
PATIENCE = 300.0


class Trials:
    """Trials of one form against its undisturbed run, all in one directory."""

    def __init__(self, data: Path, directory: Path, workers: int, seed: int) -> None:
        self.data, self.directory, self.workers = data, directory, workers
        self.random = random.Random(seed)
        directory.mkdir(parents=True)
        self.whole = directory / "whole"
        self.finish(self.start(self.whole))
        self.rows = len(metrics_of(self.whole))

    def start(self, run: Path) -> subprocess.Popen[bytes]:
        """Training in a session of its own, so that nothing of it is ours but what we kill."""
        program = [sys.executable, "-m", "tests.faults.recorded_training"]
        self.log = open(f"{run}.log", "ab")  # noqa: SIM115
        return subprocess.Popen(
            [*program, str(self.data), str(run), str(self.workers)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )

    def finish(self, training: subprocess.Popen[bytes]) -> None:
        """Wait for its end. Raises RuntimeError with its last words where that is not a success."""
        if training.wait(PATIENCE):
            raise RuntimeError(Path(self.log.name).read_text()[-2000:])

    def trial(self, number: int) -> str:
        """One trial; a line on what was killed and whether the run is the undisturbed one."""
        run, killed = self.directory / f"trial-{number}", []
        for _ in range(self.random.choice((1, 1, 2))):
            victim = RAY_VICTIMS[number % 3] if self.workers else "process"
            training = self.start(run)
            # Anywhere from the first row of metrics to some way behind the last, and between two rows.
            rows, seconds = self.random.randrange(self.rows + 5), self.random.uniform(0, 0.1)
            self._kill_after(training, run, victim, rows, seconds)
            killed.append(f"{victim} {place(run)}")
            if victim == "worker":
                # Ray itself brings the workers back, and the run goes on to its end.
                self.finish(training)
                break
        self.finish(self.start(run))
        wrong = list(self.differences(run))
        return f"trial {number}: killed {', '.join(killed)}: {', '.join(wrong) or 'the same run'}"

    def _kill_after(
        self, training: subprocess.Popen[bytes], run: Path, victim: str, rows: int, seconds: float
    ) -> None:
        wait_for(run / "metrics.jsonl", rows, training)
        time.sleep(seconds)
        if training.poll() is not None:
            return
        driver = psutil.Process(training.pid)
        below = driver.children(recursive=True)
        workers = [p for p in below if "RayTrainWorker" in p.name()]
        if victim == "worker":
            for process in workers[:1]:
                process.kill()
            return
        driver.kill()
        if victim == "tree":
            for process in below:
                process.kill()
        training.wait()
        # Ray's processes end when they find their driver gone: the machine is free then.
        psutil.wait_procs(below, timeout=60)

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


def wait_for(metrics: Path, rows: int, training: subprocess.Popen[bytes]) -> None:
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
