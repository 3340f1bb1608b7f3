"""Training that writes down which cells each step was taken on, for what kills it to read.

    python -m tests.faults.recorded_training DATA RUN WORKERS    (0: this process; else Ray Train workers)

``RUN.steps/RANK.jsonl`` gets a line ``[process, stage, cells before, cells after, digest of the rows of its
cells]`` a step.
"""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.small_atlas import train_small

RECORD = "CFGEN_SCALE_RECORD_STEPS"
# Some seconds of each stage; of the autoencoder's validations none stops it.
LONG = ("autoencoder.cells=20000", "autoencoder.patience=0", "flow.cells=20000")
RARE_CHECKPOINTS = ("autoencoder.checkpoint_every_cells=1500", "flow.checkpoint_every_cells=1500")
Step = tuple[str, int, int, str]


def record_steps() -> None:
    """Have every step of this process recorded in the directory that the environment names."""
    from cfgen_scale.training.stage_run import StageRun

    taken, folder = StageRun.step, Path(os.environ[RECORD])

    def step(self: StageRun, batch: Any) -> Any:
        before = self.state.cells_seen
        result = taken(self, batch)
        digest = hashlib.sha256(batch.rows.tobytes()).hexdigest()
        line = [os.getpid(), self.stage.name, before, self.state.cells_seen, digest]
        # In one write, so that a kill leaves no half a line between two whole ones.
        with open(folder / f"{self.accelerator.process_index}.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
        return result

    StageRun.step = step  # type: ignore[method-assign]


def sequence(folder: Path, rank: int = 0) -> list[Step]:
    """The steps that made the weights: a step that was rolled back, since a resume took it again from the
    checkpoint before it, is replaced by what was taken again. What an orphan did after a process that came
    later had begun is left out."""
    steps: list[Step] = []
    processes: list[int] = []
    for line in (folder / f"{rank}.jsonl").read_text().splitlines():
        process, stage, before, after, cells = json.loads(line)
        if process not in processes:
            processes.append(process)
        if process != processes[-1]:
            continue
        while steps and steps[-1][0] == stage and steps[-1][1] >= before:
            steps.pop()
        steps.append((stage, before, after, cells))
    return steps


def main(data: Path, run: Path, workers: int) -> None:
    folder = run.with_name(f"{run.name}.steps")
    folder.mkdir(exist_ok=True)
    os.environ[RECORD] = str(folder)
    store = f"sqlite:///{run.parent / 'mlflow.db'}"
    if workers:
        import ray

        environment = {"worker_process_setup_hook": record_steps, "env_vars": {RECORD: str(folder)}}
        os.environ["RAY_AUTH_MODE"] = "disabled"
        ray.init(address="local", num_cpus=workers, runtime_env=environment, include_dashboard=False)
    else:
        record_steps()
    settings = [*LONG, *RARE_CHECKPOINTS]
    train_small("all", data=data, run=run, workers=workers, overrides=settings, mlflow_uri=store)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
