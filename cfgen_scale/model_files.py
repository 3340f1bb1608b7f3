"""A model as one directory, config.json and weights.safetensors, which needs nothing beside it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .files import file_digest, read_json, write_directory, write_json
from .labels import LabelFrequencies
from .model_config import ModelConfig
from .size_factors import SizeFactors
from .types import AtlasSchema

if TYPE_CHECKING:
    from .model import CFGen

FORMAT = 3
CONFIG_FILE, WEIGHTS_FILE = "config.json", "weights.safetensors"


def save_model(model: "CFGen", path: Path) -> Path:
    """Write ``model`` to the directory ``path`` (config.json, weights.safetensors), aside, renamed last.

    A model already at ``path`` is replaced; any other existing directory raises FileExistsError.
    """
    from safetensors.torch import save_file

    if path.exists() and not (path / CONFIG_FILE).exists():
        raise FileExistsError(f"{path} exists and is not a model. Choose another path.")
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    with write_directory(path) as aside:
        save_file(weights, aside / WEIGHTS_FILE)
        write_json(aside / CONFIG_FILE, _document(model))
    model.digest = file_digest(path / CONFIG_FILE, path / WEIGHTS_FILE)
    return path


def load_model(path: Path, device: torch.device | str = "cpu") -> "CFGen":
    """Read a model written by ``save_model``; needs neither the training data nor a configuration file.

    Raises FileNotFoundError if there is no model, ValueError if it is of an unknown format.
    """
    from pydantic import TypeAdapter
    from safetensors.torch import load_file

    from .model import CFGen

    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (path / name).is_file():
            raise FileNotFoundError(
                f"{path} holds no model: {name} is missing. Give a run's model directory."
            )
    document = read_json(path / CONFIG_FILE)
    if document.get("format") != FORMAT:
        raise ValueError(f"{path}: model format {document.get('format')!r}; this version reads {FORMAT}.")
    schema = AtlasSchema.from_json(document["schema"])
    labels = document["labels"]
    model = CFGen(
        TypeAdapter(ModelConfig).validate_json(json.dumps(document["config"])),
        schema,
        size_factors=SizeFactors.from_json(document["size_factors"]),
        frequencies=LabelFrequencies.of(
            list(zip(labels["codes"], labels["cells"], strict=True)), len(schema.covariates)
        ),
        feature_totals=[torch.zeros(len(m.features)) for m in schema.modalities],
        provenance=document["provenance"],
    )
    model.load_state_dict(load_file(path / WEIGHTS_FILE))
    model.digest = file_digest(path / CONFIG_FILE, path / WEIGHTS_FILE)
    return model.to(device).eval()


def _document(model: "CFGen") -> dict[str, Any]:
    frequencies = model.frequencies
    return {
        "format": FORMAT,
        "config": asdict(model.config),
        "schema": model.schema.to_json(),
        "size_factors": model.size_factors.to_json(),
        "labels": {"codes": frequencies.codes.tolist(), "cells": frequencies.cells.tolist()},
        "provenance": model.provenance,
    }
