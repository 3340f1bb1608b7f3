"""Generated cells as an AnnData: what users get back."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import vstack

from .types import AtlasSchema, GeneratedCells, IntArray

if TYPE_CHECKING:
    from anndata import AnnData


def label_columns(labels: IntArray, schema: AtlasSchema) -> dict[str, "pd.Categorical[str]"]:
    """One categorical column per attribute from labels (n, K); -1 becomes a missing value."""
    return {
        covariate.name: pd.Categorical.from_codes(labels[:, k], categories=pd.Index(covariate.categories))
        for k, covariate in enumerate(schema.covariates)
    }


def cells_to_anndata(parts: Sequence[GeneratedCells], schema: AtlasSchema) -> "AnnData":
    """One AnnData of all parts in order: X counts of the first modality (n, G) CSR int32.

    obs holds the attributes told and ``size_factor``; obsm["X_cfgen"] the latents (n, D). Raises
    ValueError for a schema of several modalities, which one AnnData cannot hold.
    """
    from anndata import AnnData

    if len(schema.modalities) != 1:
        raise ValueError(f"an AnnData holds one modality; this model has {len(schema.modalities)}.")
    columns = label_columns(np.concatenate([p.labels for p in parts]), schema)
    size_factor = np.exp(np.concatenate([p.log_size_factor[:, 0] for p in parts]))
    names = [f"generated-{i}" for i in range(len(size_factor))]
    return AnnData(
        X=vstack([p.counts[0] for p in parts], format="csr"),
        obs=pd.DataFrame({**columns, "size_factor": size_factor}, index=names),
        var=pd.DataFrame(index=list(schema.modalities[0].features)),
        obsm={"X_cfgen": np.concatenate([p.latent for p in parts])},
    )
