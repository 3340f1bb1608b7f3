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


def cells_to_anndata(parts: Sequence[GeneratedCells], schema: AtlasSchema) -> "AnnData | dict[str, AnnData]":
    """All parts in order: an AnnData with X raw counts (n, G) CSR int32, obs the attributes told and size
    factors, obsm["X_cfgen"] the latents (n, D). Of several modalities a dict of one for each, with the same
    obs: ``mudata.MuData`` takes it as it is."""
    from anndata import AnnData

    labels = label_columns(np.concatenate([p.labels for p in parts]), schema)
    size_factors = np.exp(np.concatenate([p.log_size_factor for p in parts])).T
    sizes = dict(zip(schema.size_factor_columns, size_factors, strict=True))
    latent = np.concatenate([p.latent for p in parts])
    obs = pd.DataFrame({**labels, **sizes}, index=[f"generated-{i}" for i in range(len(latent))])
    made = {
        modality.name: AnnData(
            X=vstack([p.counts[m] for p in parts], format="csr"),
            obs=obs.copy(),
            var=pd.DataFrame(index=list(modality.features)),
            obsm={"X_cfgen": latent},
        )
        for m, modality in enumerate(schema.modalities)
    }
    return made if len(made) > 1 else made[schema.modalities[0].name]
