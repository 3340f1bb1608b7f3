"""What a resumed stage keeps: always the sequence of cells; the bits of the weights where nothing changed."""

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from accelerate import Accelerator

Circumstances = dict[str, int | str]
GPU = "cuda "


def circumstances(accelerator: "Accelerator") -> Circumstances:
    """What the rounding of a step depends on: workers, threads of each, device and its instructions, torch.

    Weights are equal to the bit where all of these are equal and the device is a CPU.
    """
    if accelerator.device.type == "cuda":
        device = f"{GPU}{torch.cuda.get_device_name(accelerator.device)}"
    else:
        device = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return {
        "workers": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "device": device,
        "torch": version("torch"),
    }


def what_is_kept(before: Circumstances, now: Circumstances) -> str | None:
    """One sentence for the reader of a resumed run, or None where its weights are the same to the bit: on
    a CPU, where nothing changed."""
    changed = [name for name in now if before.get(name) != now[name]]
    if not changed and not str(now["device"]).startswith(GPU):
        return None
    what = ", ".join(f"{before.get(name, 'unknown')} -> {now[name]} {_NOUNS[name]}" for name in changed)
    # On a GPU atomic additions (index_add) come in any order, so that no two runs have the same bits.
    resumed = f"with {what}" if changed else f"on {now['device']}"
    return f"resumed {resumed}: the sequence of cells is kept, the last bits of the weights are not"


_NOUNS = {"workers": "workers", "threads": "threads", "device": "as device", "torch": "as torch"}


def require_same_run(made_of: Mapping[str, Any], now: Mapping[str, Any], where: str) -> None:
    """Raise ValueError if a checkpoint was made of something else (seed, configuration, data, genes)."""
    for name in now:
        if name in made_of and made_of[name] != now[name]:
            raise ValueError(
                f"{where} was made with {name} {made_of[name]!r}, and this run has {now[name]!r}. Restore "
                "the value, or train in another run directory."
            )
