"""A parcel: of a run, the files that another machine needs to take it up, as they lie in the run directory.

Its newest checkpoint, the results of finished stages, the whitening, the model. Files are linked, not copied:
a parcel costs no room where it lies on a file system that has hard links.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from cfgen_scale.files import write_directory

from .run_directory import RunDirectory


def pack(run: RunDirectory, parcel: Path, checkpoint: Path | None = None) -> Path:
    """Link what is complete in ``run``, and ``checkpoint`` of the stage under way, into a new directory."""
    for path in (*_finished(run), *([checkpoint] if checkpoint else [])):
        target = parcel / path.relative_to(run.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, target, copy_function=link)
        else:
            link(path, target)
    parcel.mkdir(parents=True, exist_ok=True)
    return parcel


def unpack(parcel: Path, run: RunDirectory) -> None:
    """Put the files of a parcel where the run has them; directories appear whole, the model last."""
    whole = [*parcel.glob("*/checkpoints/*"), *parcel.glob("model")]
    for path in (*parcel.glob("*/result.safetensors"), *parcel.glob("latents/*.safetensors"), *whole):
        target = run.path / path.relative_to(parcel)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            with write_directory(target) as aside:
                shutil.copytree(path, aside, dirs_exist_ok=True)
        else:
            aside_file = target.with_suffix(".aside")
            shutil.copyfile(path, aside_file)
            aside_file.replace(target)


def link(path: Path | str, target: Path | str) -> None:
    """A hard link to a file, or a copy where the file system refuses links."""
    try:
        os.link(path, target)
    except FileExistsError:
        raise
    except OSError:
        shutil.copyfile(path, target)


def _finished(run: RunDirectory) -> Iterator[Path]:
    yield from run.path.glob("*/result.safetensors")
    yield from run.latents.glob("whitening-*.safetensors")
    if run.model.exists():
        yield run.model
