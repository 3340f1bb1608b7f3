"""The features of Cell Ranger's files: which of them are genes, and what they are called.

A gene has an id (Ensembl's, unique) and a name (its symbol). Some symbols belong to several genes: they are
made unique as ``adata.var_names_make_unique()`` does, so that names are those that users of scanpy know.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata.utils import make_index_unique

from cfgen_scale.types import IntArray

GENE_EXPRESSION = "Gene Expression"
ID, NAME = "id", "name"


@dataclass(frozen=True)
class Genes:
    """columns (G,) of the file that are genes, their unique names, and how many features there are of other
    kinds ("Antibody Capture": 17), which are left out."""

    columns: IntArray
    names: tuple[str, ...]
    left_out: dict[str, int]


def genes_of(
    ids: Sequence[str],
    names: Sequence[str],
    kinds: Sequence[str] | None,
    *,
    feature_column: str | None,
    uri: str,
) -> Genes:
    """The genes among the features (F,); ``kinds`` is None in files from before there were others.

    Raises ValueError for a ``feature_column`` that is neither "id" nor "name", and where there are no genes.
    """
    if feature_column not in (None, ID, NAME):
        raise ValueError(
            f"{uri} has no feature column {feature_column!r}: genes of Cell Ranger have {ID!r} (Ensembl's) "
            f"and {NAME!r} (the symbol, made unique; taken if nothing is said)."
        )
    kinds = [GENE_EXPRESSION] * len(ids) if kinds is None else kinds
    columns = np.array([i for i, kind in enumerate(kinds) if kind == GENE_EXPRESSION], dtype=np.int64)
    left_out = Counter(kind for kind in kinds if kind != GENE_EXPRESSION)
    if not len(columns):
        known = ", ".join(f"{n} of {kind!r}" for kind, n in left_out.items())
        raise ValueError(f"{uri} has no features of {GENE_EXPRESSION!r}. It has: {known or 'none at all'}.")
    chosen = ids if feature_column == ID else _unique([names[i] for i in columns])
    taken = [chosen[i] for i in columns] if feature_column == ID else chosen
    return Genes(columns, tuple(taken), dict(left_out))


def _unique(symbols: list[str]) -> list[str]:
    with warnings.catch_warnings():
        # anndata warns that "MIR1-2" might be a gene, or the second of two called "MIR1".
        warnings.simplefilter("ignore", category=UserWarning)
        return [str(name) for name in make_index_unique(pd.Index(symbols, dtype=object))]
