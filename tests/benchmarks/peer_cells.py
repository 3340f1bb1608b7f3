"""The cells that peers are measured on: the split that `prepare` makes, in files that every peer can read.

What is held out of training by `prepare` for our system (its validation cells, on which it stops early)
belongs to the training cells here: peers hold out a part of those themselves.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import anndata
import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from cfgen_scale.types import LikelihoodKind
from loaders.preparation.prepare import prepare
from loaders.preparation.prepared import Prepared

RNA, ATAC = "rna", "atac"
LIKELIHOODS: dict[str, LikelihoodKind] = {RNA: "negative_binomial", ATAC: "bernoulli"}
LABEL = "cell_type"
TEST_FRACTION = 0.2
VALIDATION_FRACTION = 0.1
# cells generated for each training cell: classes as they occur among these, and more of each than are tested
DRAWN_PER_TRAINING_CELL = 2

Labels = NDArray[np.str_]


@dataclass(frozen=True)
class PeerData:
    """Files of a data set in the folder of shared data.

    modalities  the file of each; the same cells, which are found by name
    test        test cells; None: a fifth is held out by hash
    without     classes that are none, left out
    """

    name: str
    modalities: Mapping[str, str]
    test: str | None = None
    without: tuple[str, ...] = field(default=())


DATA = {
    data.name: data
    for data in (
        PeerData("pbmc3k", {RNA: "pbmc3k_train.h5ad"}, "pbmc3k_test.h5ad"),
        PeerData("zheng_sorted", {RNA: "zheng_sorted_pbmc_3500x8846.h5ad"}),
        PeerData("kang", {RNA: "kang_pbmc_ctrl_12261x1287.h5ad"}),
        PeerData(
            "snareseq",
            {
                RNA: "snareseq_mouse_cortex_rna_10309x1677.h5ad",
                ATAC: "snareseq_mouse_cortex_atac_10309x25734.h5ad",
            },
            without=("Mis",),
        ),
    )
}


def split_cells(data: PeerData, folder: Path, out: Path) -> Path:
    """Training and test cells of each modality as `cells_file`s in the folder returned; made once.

    ``out``/prepared is the same split for `train`. Raises FileNotFoundError naming a file that is missing.
    """
    cells = out / "cells"
    wanted = {(split, name): cells_file(cells, split, name) for split in _PARTS for name in data.modalities}
    if all(file.exists() for file in wanted.values()):
        return cells
    prepared = _prepared(data, folder, out)
    cells.mkdir(exist_ok=True)
    for (split, name), file in wanted.items():
        write_cells(file, cells_of(prepared, split, name))
    return cells


def cells_file(cells: Path, split: str, modality: str) -> Path:
    """The file of the "train" or "test" cells of one modality."""
    return cells / f"{split}-{modality}.h5ad"


_PARTS = {"train": ("train", "validation"), "test": ("test",)}


def cells_of(prepared: Prepared, split: str, modality: str) -> AnnData:
    """Cells of "train" (validation cells among them) or of "test", counts as their likelihood has them."""
    parts = _PARTS[split]
    cells = anndata.concat([prepared.to_anndata(part, modality) for part in parts], merge="same")
    # in the order of the source, so that its halves are those of an evaluation of the source itself
    return cells[np.argsort(np.concatenate([prepared.rows(part) for part in parts]))].copy()


def write_cells(file: Path, cells: AnnData) -> None:
    """Write ``cells``, aside and renamed last."""
    aside = file.with_name(f".{file.name}.aside")
    cells.write_h5ad(aside, compression="gzip")
    os.replace(aside, file)


def _prepared(data: PeerData, folder: Path, out: Path) -> Prepared:
    sources = {name: folder / file for name, file in data.modalities.items()}
    missing = [path for path in (*sources.values(), *_test(data, folder)) if not path.exists()]
    if missing:
        raise FileNotFoundError(f"{missing[0]} is missing. Set CFGEN_SCALE_DATA to the folder that has it.")
    if data.without:
        sources = {name: _without(data, path, out / "sources" / path.name) for name, path in sources.items()}
    others = {name: path for name, path in sources.items() if name != RNA}
    return prepare(
        sources[RNA],
        out / "prepared",
        modalities=others or None,
        likelihoods={name: LIKELIHOODS[name] for name in sources},
        test=next(iter(_test(data, folder)), None),
        labels=[LABEL],
        min_cells_per_gene=0,
        validation_fraction=VALIDATION_FRACTION,
        test_fraction=0.0 if data.test else TEST_FRACTION,
        progress=False,
    )


def _test(data: PeerData, folder: Path) -> list[Path]:
    return [folder / data.test] if data.test else []


def _without(data: PeerData, source: Path, copy: Path) -> Path:
    """A copy of ``source`` that lacks the classes ``data`` is without; made once."""
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        cells = anndata.read_h5ad(source)
        write_cells(copy, cells[~cells.obs[LABEL].isin(data.without).to_numpy()].copy())
    return copy


def told_classes(of_training: Labels, rng: np.random.Generator) -> Labels:
    """Classes of cells to generate: DRAWN_PER_TRAINING_CELL times those of the training cells, shuffled."""
    return rng.permutation(np.tile(of_training, DRAWN_PER_TRAINING_CELL))


def cells_of_same_class(of_training: Labels, told: Labels, rng: np.random.Generator) -> NDArray[np.int64]:
    """For each of ``told`` (n,) the place of a training cell of that class, each of these as likely."""
    places = np.empty(len(told), dtype=np.int64)
    for name in np.unique(told):
        wanted = told == name
        places[wanted] = rng.choice(np.flatnonzero(of_training == name), wanted.sum())
    return places
