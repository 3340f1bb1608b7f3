"""What was asked of `prepare`, kept in the manifest, so that the same request can be told from another."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from cfgen_scale.types import LikelihoodKind
from loaders.layout import CODECS, Codec
from loaders.preparation.split import SplitRequest
from loaders.stores.annotations import AnnotatedStore
from loaders.stores.identity import SHARDS, require_identity
from loaders.stores.store import CellStore, require_column

NEGATIVE_BINOMIAL: LikelihoodKind = "negative_binomial"
# Settings that older manifests lack.
BEFORE_THERE_WERE: dict[str, Any] = {"soma": {}, "codec": "zstd", "obs": None, "likelihoods": {}}


@dataclass(frozen=True)
class PrepareRequest:
    """The settings of `loaders.preparation.prepare.prepare`, beside its sources.

    ``likelihoods`` are those that are not the negative binomial's, by modality; ``layer`` and what ``soma``
    holds are for all modalities, or by modality. Raises ValueError for a setting that cannot be.
    """

    labels: tuple[str, ...]
    likelihoods: dict[str, LikelihoodKind]
    obs: str | None
    layer: Any
    soma: dict[str, Any]
    min_cells_per_gene: int
    repack: bool
    codec: Codec
    split: SplitRequest

    def __post_init__(self) -> None:
        if self.min_cells_per_gene < 0:
            raise ValueError(
                f"min_cells_per_gene is 0 (keep all genes) or more, not {self.min_cells_per_gene}."
            )
        if self.codec not in CODECS:
            raise ValueError(f"codec is one of {', '.join(CODECS)}, not {self.codec!r}.")
        for name, likelihood in self.likelihoods.items():
            if likelihood not in get_args(LikelihoodKind):
                raise ValueError(
                    f"the likelihood of {name!r} is one of {', '.join(get_args(LikelihoodKind))}, not "
                    f"{likelihood!r}."
                )
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"a label is named twice: {', '.join(self.labels)}.")

    def likelihood(self, modality: str) -> LikelihoodKind:
        """The distribution of the counts of a modality."""
        return self.likelihoods.get(modality, NEGATIVE_BINOMIAL)

    def require_columns(self, stores: Sequence[CellStore]) -> None:
        """Raise ValueError unless every store has the obs columns that are asked for."""
        for store in stores:
            for column in (*self.labels, self.split.split_by, self.split.split_column):
                if column is not None:
                    require_column(column, store.obs_columns, store.uri)

    def require_same(self, manifest: dict[str, Any], described: list[dict[str, Any]], *, out: Path) -> None:
        """Raise FileExistsError naming the first setting or source in which the manifest differs."""
        asked = json.loads(json.dumps({**_flat(asdict(self)), "sources": _places(described)}))
        made = {**BEFORE_THERE_WERE, **_flat(manifest["request"]), "sources": _places(manifest["sources"])}
        remedy = "Choose another directory, or remove this one."
        for name, value in asked.items():
            if made[name] != value:
                raise FileExistsError(
                    f"{out} was prepared with {name} = {made[name]}, and now {name} = {value} is asked for. "
                    f"{remedy}"
                )
        for source, now in zip(manifest["sources"], described, strict=True):
            try:
                what = f"the source {source['uri']} of {out}"
                identity = json.loads(json.dumps(now["identity"]))
                require_identity(source["identity"], identity, what=what, remedy=remedy)
            except ValueError as error:
                raise FileExistsError(str(error)) from error


def describe(store: CellStore, modality: str) -> dict[str, Any]:
    """What the manifest says of a source."""
    return {"modality": modality, "uri": store.uri, "kind": store.kind, "identity": store.identity()}


def notes_on(described: list[dict[str, Any]], *, stores: Sequence[CellStore]) -> list[str]:
    """What was left out of the sources, and how many cells a table of annotations told of."""
    notes = []
    for source in described:
        for name, identity in source["identity"].get(SHARDS, {source["uri"]: source["identity"]}).items():
            left_out = identity.get("features_left_out", {})
            notes += [f"{n} features of {kind!r} in {name} left out" for kind, n in left_out.items()]
    tables = [store for store in stores if isinstance(store, AnnotatedStore)]
    if tables:
        told, cells = (sum(n) for n in zip(*((s.annotated_cells, s.n_cells) for s in tables), strict=True))
        notes.append(f"{told:,} of {cells:,} cells are in the table of annotations")
    return notes


def _places(described: list[dict[str, Any]]) -> list[str]:
    """Where each source is and what it is, in few words."""
    return [f"{source['modality']}: {source['uri']} ({source['kind']})" for source in described]


def _flat(request: dict[str, Any]) -> dict[str, Any]:
    """The request with the settings of the split beside the others, to name a difference plainly."""
    return {**{k: v for k, v in request.items() if k != "split"}, **request["split"]}
