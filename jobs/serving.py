"""A registered model as MLflow serves it: rows of attributes in, one generated cell a row out.

MLflow keeps the name of this module in the registered model (``loader_module``) and calls ``_load_pyfunc``
with our own model directory, so that no pickle stands between the registry and CFGen.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.sparse import hstack

from cfgen_scale.types import NOT_TOLD, AtlasSchema, IntArray

if TYPE_CHECKING:
    from cfgen_scale import CFGen

DEFAULT_PARAMS: dict[str, int | str] = {"seed": 0, "guidance": "{}"}


class ServedModel:
    """``predict(rows, params)`` of MLflow's pyfunc protocol over one CFGen model."""

    def __init__(self, model: "CFGen") -> None:
        self.model = model

    def predict(self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Draw one cell for each row of attributes: counts ``(n, G)`` int32, columns named by gene.

        Several modalities come one behind the other, columns named ``MODALITY:FEATURE``.

        Columns of ``model_input`` are attributes; one left out, or empty in a row, is not told.
        ``params`` are ``seed`` (int) and ``guidance`` (JSON: weight by attribute, 1 where not given).
        Raises SchemaError for an unknown attribute or category, ValueError for an unknown parameter (MLflow
        itself drops parameters that it does not know, with a warning, before they come here).
        """
        options = {**DEFAULT_PARAMS, **(params or {})}
        if unknown := sorted(set(options) - set(DEFAULT_PARAMS)):
            raise ValueError(f"unknown parameters {unknown}. Known parameters: {', '.join(DEFAULT_PARAMS)}.")
        cells = self.model.generate_cells(
            labels_of_rows(model_input, self.model.schema),
            guidance=self.model.weights_of(json.loads(options["guidance"])),
            seed=int(options["seed"]),
        )
        modalities = self.model.schema.modalities
        names = [f"{m.name}:{f}" if len(modalities) > 1 else f for m in modalities for f in m.features]
        return pd.DataFrame(hstack(cells.counts).toarray(), columns=pd.Index(names))


def labels_of_rows(rows: pd.DataFrame, schema: AtlasSchema) -> IntArray:
    """Labels ``(n, K)`` int64 of n rows of attributes; -1 where a row does not tell one."""
    labels = np.full((len(rows), len(schema.covariates)), NOT_TOLD, dtype=np.int64)
    for name in rows.columns:
        k = schema.covariate_index(str(name))
        told = rows[name].notna().to_numpy()
        labels[told, k] = [schema.covariates[k].code(str(value)) for value in rows.loc[told, name]]
    return labels


def _load_pyfunc(path: str) -> ServedModel:
    from cfgen_scale import CFGen

    return ServedModel(CFGen.load(path))
