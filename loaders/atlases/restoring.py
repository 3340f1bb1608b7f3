"""A finished atlas that has lost files goes back into its work directory, where they are made again.

Its manifest says which they are, and of which chunks it was made. Metadata are laid out anew, which also
shows that the atlas is the one asked for; of the arrays, the shards that were lost are tasks to be done, and
their chunks the ones to be drawn. All others stay as they are. Killed at any moment, it is begun again: the
atlas is moved last.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zarr

from cfgen_scale.files import flush, write_file
from cfgen_scale.types import AtlasSchema

from .assembly import Assembly
from .assembly_tasks import all_tasks, files_of
from .checksums import SUMS_FILE, Manifest, describe, files_below, read_manifest
from .chunk_files import ChunkSize, ChunkTable, Content
from .generated_atlas import read_provenance
from .generated_layout import Extent, lay_out
from .writer import PartialAtlas, room_for

LAYOUT = "laid_out.aside"


def lost_of(out: Path) -> list[str]:
    """The files that a finished atlas has lost. Raises FileExistsError if it has no manifest, or is none."""
    try:
        return read_manifest(out / SUMS_FILE).lost(out)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        read_provenance(out)  # raises for something other than a generated atlas
        raise FileExistsError(
            f"{out} is an atlas without its manifest {SUMS_FILE} ({error}), so that nobody knows whether it "
            "is whole. Copy it again, or delete it and generate it again."
        ) from None


def restore(
    partial: PartialAtlas,
    out: Path,
    *,
    schema: AtlasSchema,
    provenance: Mapping[str, Any],
    content: Content,
) -> None:
    """Make of the finished atlas ``out``, which has lost files, an unfinished one in ``partial``.

    Raises FileExistsError, with nothing changed, if the atlas is not one of this provenance, or has files
    that generation did not write; OSError if the disk is full.
    """
    manifest = read_manifest(out / SUMS_FILE)
    table = ChunkTable.of([ChunkSize.of_name(name) for name in manifest.chunks])
    assembly = Assembly(partial, schema, table, Extent.of(table, content))
    layout = partial.path / LAYOUT
    _require_nothing_else(out, manifest)
    with room_for(partial.path):
        try:
            shutil.rmtree(layout, ignore_errors=True)
            lay_out(layout, schema, assembly.extent, provenance)
            _require_same_metadata(out, layout, manifest)
            partial.begin(provenance)
            _take_up(assembly, out, layout, manifest, provenance)
        finally:
            shutil.rmtree(layout, ignore_errors=True)
        shutil.rmtree(assembly.building, ignore_errors=True)
        os.rename(out, assembly.building)
        flush(out.parent)


def _require_nothing_else(out: Path, manifest: Manifest) -> None:
    unknown = sorted(set(files_below(out)) - set(manifest.files) - {SUMS_FILE})
    if unknown:
        raise FileExistsError(
            f"{out} has lost files, and holds {unknown[0]}, which generation did not write. Move that away; "
            "then the same again writes what was lost."
        )


def _require_same_metadata(out: Path, layout: Path, manifest: Manifest) -> None:
    """The metadata laid out are those of the manifest: they hold all that the atlas was made from."""
    for file in sorted(files_below(layout)):
        if manifest.files.get(file) != describe(layout, file):
            raise FileExistsError(
                f"{out} has lost files and cannot be completed by this call: its {file} is not what would be "
                "written now, by this model, request and machine. Run the same that generated it, copy it "
                "again, or delete it."
            )


def _take_up(
    assembly: Assembly, out: Path, layout: Path, manifest: Manifest, provenance: Mapping[str, Any]
) -> None:
    """Write down in the work directory what of the atlas is there, and put lost metadata in their place."""
    lost = set(manifest.lost(out))
    with write_file(assembly.partial.path / SUMS_FILE) as file:
        file.write(manifest.encode())
    metadata = sorted(files_below(layout))
    for name in lost & set(metadata):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        with write_file(out / name) as file:
            file.write((layout / name).read_bytes())
    assembly.forget_tasks()
    root = zarr.open_group(layout, mode="r")
    for task in all_tasks(root, assembly.schema, assembly.extent):
        files = files_of(task, root, assembly.chunks)
        if not lost & set(files):
            assembly.write_receipt(task, {name: manifest.files[name] for name in files})
    assembly.write_laid_out(provenance, {name: manifest.files[name] for name in metadata})
