"""What a device reaches, and which share of that a training step does."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from cfgen_scale.costs import Work, autoencoder_step
from jobs.planning.measure_machine import best_seconds

TOP = 8


@dataclass(frozen=True)
class Precision:
    """dtype of matrix products; `TrainConfig.precision` that gives it; whether float32 may be TF32."""

    name: str
    dtype: torch.dtype
    setting: str
    tf32: bool = False

    def use(self) -> None:
        """Let float32 products be taken in TF32, or not."""
        torch.set_float32_matmul_precision("high" if self.tf32 else "highest")


FLOAT32 = Precision("float32", torch.float32, "float32")
TF32 = Precision("tf32", torch.float32, "float32", tf32=True)
BFLOAT16 = Precision("bfloat16", torch.bfloat16, "bfloat16")


def precisions(device: torch.device) -> tuple[Precision, ...]:
    return (FLOAT32, TF32, BFLOAT16) if device.type == "cuda" else (FLOAT32, BFLOAT16)


def finish(device: torch.device) -> None:
    """Wait for all that a GPU was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def product_peak(precision: Precision, device: torch.device, side: int) -> float:
    """Operations a second of products of square matrices."""
    precision.use()
    a, b = torch.randn(2, side, side, device=device).to(precision.dtype)
    out = torch.empty_like(a)
    return 2 * side**3 / best_seconds(lambda: (torch.mm(a, b, out=out), finish(device)))


def memory_peak(device: torch.device, n_bytes: int) -> float:
    """Bytes a second of a copy, those read and those written."""
    source = torch.ones(n_bytes // 4, device=device)
    target = torch.zeros_like(source)
    return 2 * n_bytes / best_seconds(lambda: (target.copy_(source), finish(device)))


def shares(rate: float, work: Work, flops: float, memory_rate: float, device: torch.device) -> dict[str, Any]:
    """Which share of each limit ``rate`` (cells/s) is, by the operations and bytes of the cost model; and of
    both, one behind the other."""
    operations, moved = autoencoder_step(work, on_processor=device.type == "cpu")
    arithmetic, memory = operations / flops, moved / memory_rate
    return {
        "operations_per_cell": operations,
        "bytes_per_cell": moved,
        "share_of_arithmetic": rate * arithmetic,
        "share_of_memory": rate * memory,
        "share_of_both": rate * (arithmetic + memory),
        "limit": "arithmetic" if arithmetic > memory else "memory",
    }


def kernels(step: Callable[[], object], device: torch.device, steps: int = 5) -> list[dict[str, Any]]:
    """The kernels (on a CPU: the operators) that take most of a step's time, with their shares of it."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiled:
        for _ in range(steps):
            step()
        finish(device)
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    times = {
        event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in profiled.key_averages()
        if event.device_type == kind
    }
    longest = sorted(times, key=lambda name: -times[name])[:TOP]
    return [{"name": name, "share": times[name] / sum(times.values())} for name in longest]
