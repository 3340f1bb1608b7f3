"""What every training worker does, in Ray, under torchrun, or alone: the stages in turn."""

import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cfgen_scale.files import flush
from cfgen_scale.labels import LabelFrequencies
from cfgen_scale.model import CFGen
from cfgen_scale.size_factors import SizeFactors
from cfgen_scale.training.checkpoint import checkpoints, set_weights
from cfgen_scale.training.config import Precision, TrainConfig
from cfgen_scale.training.loop import Saved, initialised, run_stage
from cfgen_scale.training.stages import AutoencoderStage, FlowStage, Stage
from loaders.prepared import Prepared

from .books import Books, BooksOnDisk
from .encode import AtlasLatents, encode_atlas
from .feed import autoencoder_cells, flow_cells
from .memory import reuse_memory
from .run_directory import RunDirectory

if TYPE_CHECKING:
    from accelerate import Accelerator

STAGES = ("autoencoder", "flow")
PACKAGES = ("cfgen-scale", "torch", "torchdyn", "accelerate")


def meet(expected_workers: int) -> None:
    """Join the process group, and go on when all workers have.

    Raises RuntimeError if this is not truly one of ``expected_workers`` (accelerate silently falls back to
    one process where it misreads its environment).
    """
    from accelerate import PartialState

    group = PartialState(cpu=not torch.cuda.is_available())
    if group.num_processes != expected_workers:
        raise RuntimeError(
            f"this worker sees {group.num_processes} processes instead of {expected_workers}: "
            "the process group was not set up."
        )
    group.wait_for_everyone()


def make_accelerator(precision: Precision) -> "Accelerator":
    """The Accelerator of this worker: its device and mixed precision."""
    from accelerate import Accelerator

    on_gpu = torch.cuda.is_available()
    mixed = {"auto": "bf16" if on_gpu else "no", "float32": "no", "bfloat16": "bf16"}[precision]
    return Accelerator(cpu=not on_gpu, mixed_precision=mixed)


def new_model(config: TrainConfig, prepared: Prepared) -> CFGen:
    """An untrained CFGen for the prepared atlas; initial weights depend on the seed alone."""
    statistics = prepared.statistics
    model = initialised(
        lambda: CFGen(
            config.model,
            prepared.schema,
            size_factors=SizeFactors.fit(statistics.libraries, prepared.schema, config.model.size_factors_by),
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
    cache: Path | str | None = None,
    books: Books | None = None,
    saved: Saved | None = None,
) -> None:
    """Train the stages that are not finished, then write the model. Run by every worker in step.

    ``books`` keep the metrics, in the run directory unless told otherwise; ``saved`` is told of every
    checkpoint, on every worker; ``cache`` is that of `Prepared.open`.
    """
    reuse_memory()
    # Under torchrun the first worker makes the run directory: the others may read it when all have met.
    meet(workers)
    config = run.config()
    torch.set_num_threads(
        config.threads or max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    )
    accelerator = make_accelerator(config.precision)
    prepared = Prepared.open(run.document()["data"], cache=cache)
    model = new_model(config, prepared).to(accelerator.device)
    trainer = _Trainer(run, config, prepared, accelerator, books or BooksOnDisk(run.metrics), saved)
    trainer.autoencoder(model, train="autoencoder" in stages)
    if "flow" in stages:
        trainer.flow(model)
        if trainer.writes:
            model.provenance["config"] = run.document()["config"]
            model.save(run.model)
    accelerator.wait_for_everyone()
    accelerator.end_training()


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file aside, flush it to the disk, and rename it."""
    from safetensors.torch import save_file

    path.parent.mkdir(exist_ok=True)
    aside = path.with_suffix(".aside")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, aside)
    flush(aside)
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
    ) -> None:
        self.run, self.config, self.prepared = run, config, prepared
        self.accelerator, self.books, self.saved = accelerator, books, saved

    @property
    def writes(self) -> bool:
        """Whether this worker writes results: the first one of those that share the run directory."""
        return self.accelerator.is_main_process or not self.run.shared

    def autoencoder(self, model: CFGen, *, train: bool) -> None:
        """Train the autoencoder, or load the one that this run has trained."""
        if train and not self.run.finished("autoencoder"):
            stage = AutoencoderStage(model.autoencoder, self.config.autoencoder)
            cells = autoencoder_cells(self.prepared, self.config, self.accelerator)
            self._fit(stage, cells)
        self._load(model.autoencoder, "autoencoder")

    def flow(self, model: CFGen) -> None:
        """Encode the atlas once, whiten, and train the velocity on the latents."""
        latents = encode_atlas(model.autoencoder, self.prepared, self.run, self.accelerator)
        self._whiten(model, latents)
        if not self.run.finished("flow"):
            stage = FlowStage(model.velocity, self.config.flow)
            cells = flow_cells(latents, model, self.prepared, self.config, self.accelerator)
            self._fit(stage, cells)
        self._load(model.velocity, "flow")

    def _whiten(self, model: CFGen, latents: AtlasLatents) -> None:
        """Fit the whitening on one worker, once: the signs of its axes depend on the machine's LAPACK, and
        every worker, now and on resume, must see the same latents."""
        from accelerate.utils import broadcast
        from safetensors.torch import load_file

        if self.accelerator.is_main_process:
            kept = self.run.latents / f"whitening-{latents.key[:16]}.safetensors"
            if kept.exists():
                model.whitening.load_state_dict(load_file(kept))
            else:
                model.whitening.fit(latents.training)
                save_tensors(model.whitening.state_dict(), kept)
        model.whitening.load_state_dict(broadcast(dict(model.whitening.state_dict())))

    def _fit(self, stage: Stage[Any], cells: Any) -> None:
        directory = self.run.checkpoints(stage.name)
        if self.accelerator.is_main_process:
            begun = checkpoints(directory)
            self.books.begin(stage.name, int(begun[-1].name) if begun else 0)
        weights = run_stage(
            stage,
            cells,
            self.accelerator,
            directory=directory,
            seed=self.config.seed,
            report=self.books.add,
            saved=self.saved,
            data={"data": self.prepared.arrangement, "schema": self.prepared.schema.digest()},
            versions=versions(),
        )
        if self.writes:
            save_tensors(weights, self.run.result(stage.name))
        self.accelerator.wait_for_everyone()

    def _load(self, network: torch.nn.Module, stage: str) -> None:
        from safetensors.torch import load_file

        if not self.run.finished(stage):
            raise FileNotFoundError(f"{self.run.path} has no trained {stage}. Train it first: train {stage}.")
        set_weights(network, load_file(self.run.result(stage)))
        network.to(self.accelerator.device).eval()
