"""What trains is checked before it trains: device, placement, resources, storage."""

from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.config import ConfigError
from jobs.device import device_for, device_here, training_on
from jobs.training.machines import Machines, checked_machines, checked_storage, resources_of
from jobs.training.ray_training import _scaling
from jobs.training.workers import Workers


def machines(workers: Workers, **told: Any) -> Machines:
    settings = {"device": "auto", "placement": None, "resources": None, "storage": None}
    return checked_machines(workers, **{**settings, "cache": None, "restarts": 3, **told})


@pytest.mark.parametrize(
    ("asked", "gpus", "needed", "device", "why"),
    [
        ("auto", 8, 4, "cuda", "the cluster has 8 GPUs"),
        ("auto", 1, 4, "cpu", "the cluster has 1 GPU and the workers need 4"),
        ("auto", 0, 1, "cpu", "the cluster has 0 GPUs and the workers need 1"),
        ("cuda", 2, 0.5, "cuda", "the cluster has 2 GPUs"),
        ("cpu", 8, 1, "cpu", "as asked"),
    ],
)
def test_a_device_is_taken_and_the_reason_said(
    asked: str, gpus: float, needed: float, device: str, why: str
) -> None:
    assert device_for(asked, gpus=gpus, needed=needed, where="the cluster") == (device, why)


def test_gpus_that_are_asked_for_and_not_there_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"the cluster has 2 GPUs and the workers need 4.*--device cpu"):
        device_for("cuda", gpus=2, needed=4, where="the cluster")
    with pytest.raises(ConfigError, match="device must be auto, cpu, cuda"):
        device_for("tpu", gpus=2, needed=1, where="the cluster")


def test_processes_of_one_machine_need_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert device_here("auto")[0] == "cuda"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    device, why = device_here("auto")
    assert training_on(device, why) == "training on the CPU: this machine has 1 GPU and the workers need 2."
    with pytest.raises(ConfigError, match="--device cuda"):
        device_here("cuda")


@pytest.mark.parametrize("workers", [Workers(0, 0), Workers(2, 2)])
def test_a_machine_without_gpus_refuses_them_before_anything_starts(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("jobs.training.machines._cluster_is_elsewhere", lambda: False)
    with pytest.raises(ConfigError, match="--device cuda: this machine has 0 GPUs"):
        machines(workers, device="cuda")


@pytest.mark.ray
def test_a_cluster_without_gpus_refuses_them(ray_cluster: None) -> None:
    with pytest.raises(ConfigError, match="--device cuda: the cluster has 0 GPUs and the workers need 2"):
        machines(Workers(2, 2), device="cuda")


def test_ray_is_told_what_a_worker_reserves_and_where_it_goes() -> None:
    told = machines(Workers(1, 4), placement="spread", resources="CPU=8,GPU=0.5,memory=64e9")
    assert told.gpus_needed == 0.5
    assert told.slots == 32
    on_gpus = _scaling(told, "cuda")
    assert on_gpus.placement_strategy == "SPREAD"
    assert on_gpus.num_workers == (1, 4)
    assert on_gpus.use_gpu
    assert on_gpus.resources_per_worker == {"CPU": 8, "GPU": 0.5, "memory": 64e9}
    on_cpus = _scaling(told, "cpu")
    assert not on_cpus.use_gpu
    assert on_cpus.resources_per_worker == {"CPU": 8, "memory": 64e9}


def test_unless_told_a_worker_has_a_cpu_and_lies_beside_the_others() -> None:
    told = machines(Workers(2, 2))
    scaling = _scaling(told, "cuda")
    assert scaling.placement_strategy == "PACK"
    assert scaling._resources_per_worker_not_none == {"CPU": 1, "GPU": 1}
    assert told.slots == 2


@pytest.mark.parametrize("told", ["CPU", "CPU=", "CPU=many", "CPU=-1", "=3", "CPU=1;GPU=2"])
def test_resources_that_are_none_are_refused(told: str) -> None:
    with pytest.raises(ConfigError, match="--resources must be as in CPU=4,GPU=1"):
        resources_of(told)


@pytest.mark.parametrize(
    "told", [{"placement": "spread"}, {"resources": "CPU=2"}, {"storage": "s3://bucket/runs"}]
)
def test_what_is_of_ray_needs_ray(told: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="--workers 1 or more"):
        machines(Workers(0, 0), **told)


def test_a_placement_that_ray_does_not_know_is_refused() -> None:
    with pytest.raises(ConfigError, match="placement must be pack, spread"):
        machines(Workers(1, 1), placement="beside")


def test_storage_is_a_uri_or_a_directory(tmp_path: Path) -> None:
    assert checked_storage(None) is None
    assert checked_storage(str(tmp_path / "x" / ".." / "y")) == str(tmp_path / "y")
    with pytest.raises(ConfigError, match="no directory or URI that can be opened"):
        checked_storage("tape://reel/7")
