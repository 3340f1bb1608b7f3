"""On what workers compute: a GPU each, or the CPU, as asked or as there is."""

import os
from typing import Literal

from .config import ConfigError

Device = Literal["cpu", "cuda"]
DEVICES = ("auto", "cpu", "cuda")


def device_for(asked: str, *, gpus: float, needed: float, where: str) -> tuple[Device, str]:
    """The device of workers that need ``needed`` of the ``gpus`` GPUs ``where``, and why it is that one.

    Raises ConfigError where GPUs are asked for and there are too few.
    """
    if asked not in DEVICES:
        raise ConfigError(f"device must be {', '.join(DEVICES)}, not {asked!r}.")
    there = f"{where} has {gpus:g} GPU{'' if gpus == 1 else 's'}"
    if asked == "cpu":
        return "cpu", "as asked"
    if gpus >= needed > 0:
        return "cuda", there
    too_few = f"{there} and the workers need {needed:g}"
    if asked == "cuda":
        raise ConfigError(
            f"--device cuda: {too_few}. Take fewer workers, or train on the CPU with --device cpu."
        )
    return "cpu", too_few


def device_here(asked: str) -> tuple[Device, str]:
    """The device of this process, and of those launched beside it on this machine. Raises ConfigError."""
    import torch

    needed = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return device_for(asked, gpus=torch.cuda.device_count(), needed=needed, where="this machine")


def device_in_cluster(asked: str, needed: float) -> tuple[Device, str]:
    """The device in the Ray cluster that this process is connected to. Raises ConfigError."""
    import ray

    gpus = ray.cluster_resources().get("GPU", 0.0)
    return device_for(asked, gpus=gpus, needed=needed, where="the cluster")


def training_on(device: Device, why: str) -> str:
    """``training on the CPU: this machine has 0 GPUs and the workers need 1.``"""
    return f"training on {'GPUs' if device == 'cuda' else 'the CPU'}: {why}."
