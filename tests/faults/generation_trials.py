"""Kill generation at random moments (SIGKILL), run it again, and compare with the atlas nobody disturbed.

    python -m tests.faults.generation_trials --out DIRECTORY [--trials 20] [--ray 6] [--seed 0]

A trial kills once or twice, every other time while the atlas is assembled: its process (a fork of this one),
or, through Ray with two workers, in turn a worker, the driver, the whole tree of processes. Each line says
what was killed and where that left the atlas. A trial is passed when the bytes of every file equal those of
the undisturbed atlas and no work directory is left. Exit status 1 if one is not.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from jobs.generation.generate import generate_atlas
from jobs.generation.request import Group, Request
from loaders.atlases.writer import PartialAtlas
from tests.tiny_model import save_tiny_model
from tests.tree_bytes import tree_bytes

ROOT = Path(__file__).parents[2]
REQUEST = Request((Group(400, {"cell_type": "B"}), Group(800)))
CHUNK_CELLS = 10
CHUNKS = REQUEST.n_cells // CHUNK_CELLS
VICTIMS = {"process": ("process",), "ray": ("worker", "driver", "tree")}
PATIENCE = 300.0


def generate(model: Path, out: Path, workers: int) -> None:
    generate_atlas(model, out, REQUEST, workers=workers, chunk_cells=CHUNK_CELLS, progress=False)


class Forked:
    """Generation in a fork of this process, which has imported all that costs seconds; told as by Popen."""

    def __init__(self, model: Path, out: Path, log: Path) -> None:
        self._process = multiprocessing.get_context("fork").Process(
            target=self._generate, args=(model, out, log)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @staticmethod
    def _generate(model: Path, out: Path, log: Path) -> None:
        with open(log, "ab") as file:
            os.dup2(file.fileno(), sys.stdout.fileno())
            os.dup2(file.fileno(), sys.stderr.fileno())
        generate(model, out, 1)

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        return self._process.exitcode


Generation = Forked | subprocess.Popen[bytes]


class Trials:
    """Trials of one form against its undisturbed atlas, all in one directory."""

    def __init__(self, model: Path, directory: Path, form: str, seed: int) -> None:
        self.model, self.directory, self.form = model, directory, form
        self.random = random.Random(seed)
        directory.mkdir(parents=True)
        self.whole = directory / "whole.zarr"
        generation = self.start(self.whole)
        wait_for(self.whole, CHUNKS, generation)
        drawn = time.monotonic()
        self.finish(generation)
        self.behind = time.monotonic() - drawn  # seconds of assembly, of which moments are drawn

    def start(self, out: Path) -> Generation:
        """Generation as another process, or in a session of its own with all that belongs to it."""
        self.log = Path(f"{out}.log")
        if self.form == "process":
            return Forked(self.model, out, self.log)
        program = [sys.executable, "-m", "tests.faults.generation_trials", "--worker"]
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                [*program, str(self.model), "--out", str(out)],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def finish(self, generation: Generation) -> None:
        """Wait for its end. Raises RuntimeError with its last words where that is not a success."""
        if generation.wait(PATIENCE) != 0:
            raise RuntimeError(self.log.read_text()[-2000:])

    def trial(self, number: int) -> str:
        """One trial; a line on what was killed and whether the atlas is the undisturbed one."""
        out, killed = self.directory / f"trial-{number}.zarr", []
        victim = VICTIMS[self.form][number % len(VICTIMS[self.form])]
        for again in range(self.random.choice((1, 1, 2))):
            generation = self.start(out)
            reached = self._kill(generation, out, victim, assembling=(number + again) % 2 == 1)
            killed.append(f"{victim if reached else 'nothing'} {place(out)}")
            if not reached or victim == "worker":
                # Ray's other workers go on to the end.
                self.finish(generation)
                break
        self.finish(self.start(out))
        wrong = "" if tree_bytes(out) == tree_bytes(self.whole) else "OTHER BYTES"
        left = "" if not PartialAtlas.beside(out).path.exists() else "WORK DIRECTORY LEFT"
        return f"trial {number}: killed {', '.join(killed)}: {wrong or left or 'the same atlas'}"

    def _kill(self, generation: Generation, out: Path, victim: str, *, assembling: bool) -> bool:
        """Kill at a random moment of the chunks or of what comes behind; whether there was something to."""
        # How long a chunk takes differs from run to run with the start of workers: count them.
        chunks = CHUNKS if assembling else self.random.randrange(CHUNKS)
        wait_for(out, chunks, generation)
        time.sleep(self.random.uniform(0, self.behind if assembling else 0.05))
        if generation.poll() is not None:
            return False
        driver = psutil.Process(generation.pid)
        below = driver.children(recursive=True)
        workers = [process for process in below if "AtlasWorker" in name(process)]
        if victim == "worker":
            for process in self.random.sample(workers, min(len(workers), 1)):
                process.kill()
            return bool(workers)
        driver.kill()
        if victim == "tree":
            for process in below:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        generation.wait()
        # Ray's processes end when they find their driver gone: the machine is free then.
        psutil.wait_procs(below, timeout=60)
        return True


def name(process: psutil.Process) -> str:
    """What a process calls itself; Ray's workers carry the name of their actor."""
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


def chunks_of(out: Path) -> int:
    """Chunks that an unfinished atlas has; -1 where nothing was begun."""
    partial = PartialAtlas.beside(out)
    return len(partial.chunks_there()) if partial.read_plan() is not None else -1


def wait_for(out: Path, chunks: int, generation: Generation) -> None:
    """Return when there are so many chunks, or the atlas is there, or generation has ended."""
    until = time.monotonic() + PATIENCE
    while generation.poll() is None and time.monotonic() < until and not out.exists():
        with suppress(FileNotFoundError, FileExistsError):  # renamed, or removed in part, while we look
            if chunks_of(out) >= chunks:
                return
        time.sleep(0.002)


def place(out: Path) -> str:
    """Where an atlas stands: ``at 17 of 120 chunks``."""
    if out.exists():
        return "when all was done"
    chunks = chunks_of(out)
    if chunks < CHUNKS:
        return f"at {chunks} of {CHUNKS} chunks" if chunks >= 0 else "before the plan"
    building = [path for path in (PartialAtlas.beside(out).path / "atlas.zarr").rglob("*") if path.is_file()]
    return f"assembling, {len(building)} files"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--ray", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        generate(asked.worker, asked.out, 2)
        return 0
    shutil.rmtree(asked.out, ignore_errors=True)
    model = save_tiny_model(asked.out.resolve() / "model")
    generate(model, asked.out.resolve() / "warm.zarr", 1)  # imports and compiles what forks then have
    failed = 0
    of_forms = {"process": asked.trials, "ray": asked.ray}
    for form, n in of_forms.items():
        if not n:
            continue
        trials = Trials(model, asked.out.resolve() / form, form, asked.seed)
        print(f"{form}: undisturbed, {trials.behind:.1f} s behind its {CHUNKS} chunks", flush=True)
        for number in range(n):
            line = trials.trial(number)
            failed += not line.endswith("the same atlas")
            print(f"{form} {line}", flush=True)
    print(f"{failed} of {sum(of_forms.values())} trials failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
