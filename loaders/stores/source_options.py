"""How sources are opened: what `open_store` is told, for all modalities or for each by its name."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from loaders.stores.opening import StoreOptions

# One value for the sources of all modalities, or one for those of each modality that is named.
type PerModality = str | Mapping[str, str] | None


@dataclass(frozen=True)
class SourceOptions:
    """The options of `open_store`: layer, and measurement, obs_filter and feature_column.

    The cells are the same in all modalities, so that the filter of obs is one.
    """

    layer: PerModality = None
    measurement: PerModality = None
    obs_filter: str | None = None
    feature_column: PerModality = None

    @staticmethod
    def of_request(request: Mapping[str, Any]) -> "SourceOptions":
        """Those that the manifest of a prepared atlas keeps in its request."""
        return SourceOptions(layer=request["layer"], **request.get("soma", {}))

    @property
    def soma(self) -> dict[str, Any]:
        """Those besides the layer that are given: what the request keeps, as JSON values."""
        named = {
            "measurement": self.measurement,
            "obs_filter": self.obs_filter,
            "feature_column": self.feature_column,
        }
        return {name: _plain(value) for name, value in named.items() if value is not None}

    @property
    def layers(self) -> Any:
        """The layer as a JSON value."""
        return _plain(self.layer)

    def of(self, modality: str) -> StoreOptions:
        """What `open_store` is told of the sources of a modality."""
        return StoreOptions(
            layer=_for(self.layer, modality),
            measurement=_for(self.measurement, modality),
            obs_filter=self.obs_filter,
            feature_column=_for(self.feature_column, modality),
        )

    def require_modalities(self, names: Iterable[str]) -> None:
        """Raise ValueError for an option of a modality that is not among ``names``."""
        known = list(names)
        for option in ("layer", "measurement", "feature_column"):
            require_names(getattr(self, option), known, option)


def require_names(option: str | Mapping[str, Any] | None, known: list[str], what: str) -> None:
    """Raise ValueError for a modality named in ``option`` that is not among ``known``."""
    for name in option if isinstance(option, Mapping) else ():
        if name not in known:
            raise ValueError(
                f"{what} is given for the modality {name!r}, and there is none. Modalities: "
                f"{', '.join(known)}."
            )


def _for(option: PerModality, modality: str) -> str | None:
    return option.get(modality) if isinstance(option, Mapping) else option


def _plain(option: PerModality) -> Any:
    return dict(option) if isinstance(option, Mapping) else option
