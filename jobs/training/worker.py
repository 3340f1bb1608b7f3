"""What every training worker does, in Ray, under torchrun, or alone: the stages in turn."""

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from cfgen_scale.files import flush
from cfgen_scale.labels import LabelFrequencies
from cfgen_scale.model import CFGen
from cfgen_scale.size_factors import SizeFactors
from cfgen_scale.training.checkpoint import STATE_FILE, Guard, checkpoints, nothing, set_weights
from cfgen_scale.training.config import Precision, TrainConfig
from cfgen_scale.training.loop import Saved, initialised, run_stage
from cfgen_scale.training.stage_run import Cells
from cfgen_scale.training.stages import AutoencoderStage, FlowStage, Stage
from loaders.preparation.prepared import Prepared

from ..memory import reuse_memory
from .agreement import GROUP_PATIENCE, first_says, wait_for
from .books import Books, BooksOnDisk
from .encode import AtlasLatents, encode_atlas
from .feed import autoencoder_cells, flow_cells, log_sizes
from .run_directory import RunDirectory

if TYPE_CHECKING:
    from accelerate import Accelerator

PACKAGES = ("cfgen-scale", "torch", "torchdyn", "accelerate")


def meet(expected_workers: int, *, on_gpu: bool) -> None:
    """Join the process group, and go on when all workers have.

    Raises RuntimeError if this is not truly one of ``expected_workers`` (accelerate silently falls back to
    one process where it misreads its environment).
    """
    from accelerate import PartialState

    group = PartialState(cpu=not on_gpu, timeout=timedelta(seconds=GROUP_PATIENCE))
    if group.num_processes != expected_workers:
        raise RuntimeError(
            f"this worker sees {group.num_processes} processes instead of {expected_workers}: "
            "the process group was not set up."
        )
    group.wait_for_everyone()


def make_accelerator(precision: Precision, *, on_gpu: bool | None = None) -> "Accelerator":
    """The Accelerator of this worker: its device (None: a GPU if there is one) and mixed precision."""
    from accelerate import Accelerator
    from accelerate.utils import GradientAccumulationPlugin

    on_gpu = torch.cuda.is_available() if on_gpu is None else on_gpu
    mixed = {"auto": "bf16" if on_gpu else "no", "float32": "no", "bfloat16": "bf16"}[precision]
    # Said outright, since accelerate else takes a number from the environment, by which it divides the loss.
    whole = GradientAccumulationPlugin(num_steps=1)
    return Accelerator(cpu=not on_gpu, mixed_precision=mixed, gradient_accumulation_plugin=whole)


def threads_of_worker() -> int:
    """The CPUs that this process may use (affinity and quota of its container) shared among the workers of
    this machine."""
    from joblib import cpu_count  # type: ignore[import-untyped]

    return max(1, cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def new_model(config: TrainConfig, prepared: Prepared) -> CFGen:
    """An untrained CFGen for the prepared atlas; initial weights depend on the seed alone."""
    statistics = prepared.statistics
    model = initialised(
        lambda: CFGen(
            config.model,
            prepared.schema,
            size_factors=SizeFactors.fit(
                statistics.libraries,
                prepared.schema,
                config.model.size_factors_by,
                statistics.joint_labels,
            ),
            frequencies=LabelFrequencies.of(statistics.joint_labels, len(prepared.schema.covariates)),
            feature_totals=[torch.from_numpy(t) for t in statistics.feature_totals],
            provenance={
                "data": {"digest": prepared.digest, "cells": prepared.n_cells},
                "seed": config.seed,
                "versions": versions(),
            },
        ),
        config.seed,
    )
    assert isinstance(model, CFGen)
    return model


def versions() -> dict[str, str]:
    """The versions of the packages that training is made of."""
    return {name: version(name) for name in PACKAGES}


def train_worker(
    run: RunDirectory,
    stages: Sequence[str],
    *,
    workers: int,
    on_gpu: bool,
    cache: Path | str | None = None,
    books: Books | None = None,
    saved: Saved | None = None,
    guard: Guard = nothing,
) -> None:
    """Train the stages that are not finished, then write the model. Run by every worker in step.

    ``books`` keep the metrics, in the run directory unless told otherwise; ``saved`` is told of every
    checkpoint, on every worker; ``cache`` is that of `Prepared.open`. ``guard`` is called before anything is
    written or removed in the run directory, and raises where that is no longer this trainer's.
    """
    from accelerate import PartialState

    reuse_memory()
    # Under torchrun the first worker makes the run directory: the others may read it when all have met.
    meet(workers, on_gpu=on_gpu)
    if first_says(run.trained(stages)):
        PartialState().destroy_process_group()
        return
    wait_for(run.path / "run.json")
    config = run.config()
    torch.set_num_threads(config.threads or threads_of_worker())
    accelerator = make_accelerator(config.precision, on_gpu=on_gpu)
    prepared = Prepared.open(run.document()["data"], cache=cache)
    model = new_model(config, prepared).to(accelerator.device)
    books = books or BooksOnDisk(run.metrics)
    trainer = _Trainer(run, config, prepared, accelerator, books, saved, guard)
    trainer.autoencoder(model, train="autoencoder" in stages)
    if "flow" in stages:
        trainer.flow(model)
        trainer.save(model)
    accelerator.wait_for_everyone()
    accelerator.end_training()


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path, *, guard: Guard = nothing) -> None:
    """Write a safetensors file aside, flush it to the disk, and rename it if ``guard`` lets it."""
    from safetensors.torch import save_file

    path.parent.mkdir(exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.aside")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, aside)
    flush(aside)
    guard()
    aside.replace(path)


class _Trainer:
    """The stages of one run on this worker."""

    def __init__(
        self,
        run: RunDirectory,
        config: TrainConfig,
        prepared: Prepared,
        accelerator: "Accelerator",
        books: Books,
        saved: Saved | None,
        guard: Guard,
    ) -> None:
        self.run, self.config, self.prepared = run, config, prepared
        self.accelerator, self.books, self.saved, self.guard = accelerator, books, saved, guard

    @property
    def writes(self) -> bool:
        """Whether this worker writes results: the first one of those that share the run directory."""
        return self.accelerator.is_main_process or not self.run.shared

    def autoencoder(self, model: CFGen, *, train: bool) -> None:
        """Train the autoencoder, or load the one that this run has trained."""
        finished = first_says(self.run.finished("autoencoder"))
        if not finished and not train:
            raise FileNotFoundError(
                f"{self.run.path} has no trained autoencoder. Train it first: train autoencoder."
            )
        if not finished:
            stage = AutoencoderStage(model.autoencoder, self.config.autoencoder)
            cells = autoencoder_cells(self.prepared, self.config, self.accelerator)
            self._fit(stage, cells)
        self._load(model.autoencoder, "autoencoder")

    def flow(self, model: CFGen) -> None:
        """Encode the atlas once, whiten, and train the velocity on the latents."""
        self.guard()
        latents = encode_atlas(model.autoencoder, self.prepared, self.run, self.accelerator)
        self._whiten(model, latents)
        if not first_says(self.run.finished("flow")):
            stage = FlowStage(model.velocity, self.config.flow)
            cells = flow_cells(latents, model, self.prepared, self.config, self.accelerator)
            made_of = {"whitening": self.config.model.whitening, "sizes": self.config.model.size_factors}
            self._fit(stage, cells, latents=latents.key, **made_of)
        self._load(model.velocity, "flow")

    def save(self, model: CFGen) -> None:
        """Write the trained model."""
        if self.writes:
            model.provenance["config"] = self.run.document()["config"]
            self.guard()
            model.save(self.run.model)

    def _whiten(self, model: CFGen, latents: AtlasLatents) -> None:
        """Fit the maps to what the flow moves on one worker, once: the signs of axes depend on the machine's
        LAPACK, and every worker, now and on resume, must see the same latents."""
        from accelerate.utils import broadcast
        from safetensors.torch import load_file

        maps = nn.ModuleDict({"whitening": model.whitening, "sizes": model.sizes_beside})
        if self.accelerator.is_main_process:
            kinds = f"{self.config.model.whitening}-{self.config.model.size_factors}"
            kept = self.run.latents / f"whitening-{kinds}-{latents.key[:16]}.safetensors"
            if kept.exists():
                maps.load_state_dict(load_file(kept))
            else:
                model.whitening.fit(latents.training)
                sizes = log_sizes(self.prepared, "train")
                model.sizes_beside.fit(model.whitening, latents.training, sizes)
                save_tensors(maps.state_dict(), kept, guard=self.guard)
        maps.load_state_dict(broadcast(dict(maps.state_dict())))

    def _fit(self, stage: Stage[Any], cells: Cells, **made_of: str) -> None:
        """Train a stage, or go on with it where its checkpoints were made of the same data and of this."""
        directory = self.run.checkpoints(stage.name)
        begun = self._begun(directory)
        if self.accelerator.is_main_process:
            self.books.begin(stage.name, begun)
        weights = run_stage(
            stage,
            cells,
            self.accelerator,
            directory=directory,
            seed=self.config.seed,
            report=self.books.add,
            saved=self.saved,
            guard=self.guard,
            data={"data": self.prepared.arrangement, "schema": self.prepared.schema.digest(), **made_of},
            versions=versions(),
        )
        if self.writes:
            save_tensors(weights, self.run.result(stage.name), guard=self.guard)
        self.accelerator.wait_for_everyone()

    def _begun(self, directory: Path) -> int:
        """Cells seen at the newest checkpoint that the first worker sees, on all workers; 0 if there is
        none."""
        found = [int(path.name) for path in checkpoints(directory)]
        newest = first_says(found[-1] if found else 0)
        if newest:
            wait_for(directory / f"{newest:015d}" / STATE_FILE)
        return newest

    def _load(self, network: torch.nn.Module, stage: str) -> None:
        from safetensors.torch import load_file

        set_weights(network, load_file(wait_for(self.run.result(stage))))
        network.to(self.accelerator.device).eval()
