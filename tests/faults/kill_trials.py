"""Kill training at random moments (SIGKILL), run it again, and compare with the run that nobody disturbed.

    python -m tests.faults.kill_trials --data PREPARED --out DIRECTORY [--trials 20] [--ray 4] [--torchrun 2]
        [--seed 0]

A trial kills once or twice: its process (fast form); or, through Ray with two workers, in turn a worker, the
driver, the whole tree of processes, the driver whose workers stand still until the next one trains (orphans,
which then go on as if nothing had happened); or, in two processes of torchrun, in turn one of them, and
torchrun itself (whose orphans train to the end: meanwhile the run is refused to others). Each line says what
was killed and where that left the run. A trial is passed when the weights equal the undisturbed run's to the
bit, each step was taken on the same cells with none skipped or repeated, and metrics are there once. Exit
status 1 if one is not.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from tests.faults import recorded_training
from tests.faults.recorded_training import sequence
from tests.faults.train_until_killed import import_once
from tests.small_atlas import metrics_of
from tests.tree_bytes import tree_bytes

ROOT = Path(__file__).parents[2]
VICTIMS = {
    "process": ("process",),
    "ray": ("worker", "driver", "tree", "driver, its workers held"),
    "torchrun": ("worker", "torchrun"),
}
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--")
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

    def __init__(self, data: Path, directory: Path, form: str, seed: int) -> None:
        self.data, self.directory, self.form = data, directory, form
        self.random = random.Random(seed)
        self.orphans: list[psutil.Process] = []
        directory.mkdir(parents=True)
        self.whole = directory / "whole"
        self.finish(self.start(self.whole))
        self.rows = len(metrics_of(self.whole))

    def start(self, run: Path) -> Training:
        """Training as another process, or in a session of its own with all that belongs to it."""
        self.log = Path(f"{run}.log")
        if self.form == "process":
            return Forked(self.data, run, self.log)
        launcher = TORCHRUN if self.form == "torchrun" else ("-m",)
        program = [sys.executable, *launcher, "tests.faults.recorded_training"]
        workers = 2 if self.form == "ray" else 0
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                [*program, str(self.data), str(run), str(workers)],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def resume(self, run: Path) -> Training:
        """Training again; orphans that were held go on when it has taken up the run."""
        lock = run / ".lock"
        owner = lock.read_text() if lock.exists() else ""
        training = self.start(run)
        if self.orphans:
            wait_until(lambda: lock.read_text() not in (owner, ""), training)
            for process in self.orphans:
                with suppress(psutil.NoSuchProcess):
                    process.resume()
            self.orphans = []
        return training

    def finish(self, training: Training) -> None:
        """Wait for its end. Raises RuntimeError with its last words where that is not a success."""
        if training.wait(PATIENCE) != 0:
            raise RuntimeError(self.log.read_text()[-2000:])

    def trial(self, number: int) -> str:
        """One trial; a line on what was killed and whether the run is the undisturbed one."""
        run, killed = self.directory / f"trial-{number}", []
        victims = VICTIMS[self.form]
        for _ in range(self.random.choice((1, 1, 2))):
            victim = victims[number % len(victims)]
            training = self.resume(run)
            # Anywhere from the first row of metrics to some way behind the last, and between two rows.
            rows, seconds = self.random.randrange(self.rows + 5), self.random.uniform(0, 0.1)
            reached = self._kill_after(training, run, victim, rows, seconds)
            killed.append(f"{victim if reached else 'nothing'} {place(run)}")
            if not reached or (self.form, victim) == ("ray", "worker"):
                # Ray itself brings the workers back, and the run goes on to its end.
                self.finish(training)
                break
        self.finish(self.resume(run))
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
        workers = below if self.form == "torchrun" else [p for p in below if "RayTrainWorker" in p.name()]
        if victim == "worker":
            for process in self.random.sample(workers, min(len(workers), 1)):
                process.kill()
            if self.form == "torchrun":
                # It ends the other one, and itself.
                training.wait(PATIENCE)
            return bool(workers)
        if victim == "driver, its workers held":
            self.orphans = [process for process in workers if held(process)]
        driver.kill()
        if victim == "tree":
            for process in below:
                process.kill()
        training.wait()
        if victim == "torchrun":
            self._require_refusal(run, workers)
        if not self.orphans:
            # Ray's processes end when they find their driver gone: the machine is free then.
            psutil.wait_procs(below, timeout=PATIENCE if victim == "torchrun" else 60)
        return True

    def _require_refusal(self, run: Path, workers: list[psutil.Process]) -> None:
        """The first of torchrun's orphans holds the run: raises RuntimeError if another may train it too."""
        for first in (process for process in workers if is_first(process) and held(process)):
            self.start(run).wait(PATIENCE)
            first.resume()
            if "is being trained by another process" not in (said := self.log.read_text()):
                raise RuntimeError(f"{run} was open to two trainers: {said[-2000:]}")

    def differences(self, run: Path) -> Iterator[str]:
        """What is not as in the undisturbed run; nothing, if the trial is passed."""
        if tree_bytes(run / "model") != tree_bytes(self.whole / "model"):
            yield "OTHER WEIGHTS"
        steps = [Path(f"{path}.steps") for path in (run, self.whole)]
        for rank in range(1 if self.form == "process" else 2):
            if sequence(steps[0], rank) != sequence(steps[1], rank):
                yield f"OTHER CELLS of worker {rank}"
        if metrics_of(run) != metrics_of(self.whole):
            yield "OTHER METRICS"


def held(process: psutil.Process) -> bool:
    """Have a process stand still; whether there is one."""
    with suppress(psutil.NoSuchProcess):
        process.suspend()
        return True
    return False


def is_first(process: psutil.Process) -> bool:
    """Whether this is the first worker of torchrun."""
    with suppress(psutil.NoSuchProcess):
        return process.environ().get("RANK") == "0"
    return False


def wait_for(metrics: Path, rows: int, training: Training) -> None:
    """Return when there are so many rows of metrics, or the model is there, or training has ended."""
    model = metrics.parent / "model"
    wait_until(
        lambda: model.exists() or (metrics.exists() and metrics.read_text().count("\n") >= rows), training
    )


def wait_until(reached: Callable[[], bool], training: Training) -> None:
    """Return when ``reached``, or when training has ended."""
    until = time.monotonic() + PATIENCE
    while training.poll() is None and time.monotonic() < until and not reached():
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
    parser.add_argument("--ray", type=int, default=4)
    parser.add_argument("--torchrun", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    shutil.rmtree(asked.out, ignore_errors=True)
    failed = 0
    import_once()
    of_forms = {"process": asked.trials, "ray": asked.ray, "torchrun": asked.torchrun}
    for form, n in of_forms.items():
        if n:
            trials = Trials(asked.data.resolve(), asked.out.resolve() / form, form, asked.seed)
            print(f"{form}: undisturbed, {trials.rows} rows of metrics", flush=True)
            for number in range(n):
                line = trials.trial(number)
                failed += not line.endswith("the same run")
                print(f"{form} {line}", flush=True)
    print(f"{failed} of {sum(of_forms.values())} trials failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
