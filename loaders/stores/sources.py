"""The sources of each modality: what was named, and the parts of a MuData or of a SOMA experiment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from anndata import AnnData

from loaders.stores.csr_arrays import CsrCaches
from loaders.stores.mudata_parts import MOD, modalities_of, require_part
from loaders.stores.opening import is_soma, open_store
from loaders.stores.source_options import PerModality, SourceOptions
from loaders.stores.store import RNA, CellStore

type Source = str | Path | AnnData


@dataclass(frozen=True)
class Sources:
    """Sources by modality, RNA first, and how they are opened."""

    by_modality: Mapping[str, Sequence[Source]]
    options: SourceOptions

    @staticmethod
    def of(
        first: Sequence[Source],
        further: Mapping[str, Source | Sequence[Source] | None],
        options: SourceOptions,
    ) -> "Sources":
        """``first`` are those of RNA. A further modality without sources is that part of them which has its
        name: of a MuData the modality, of SOMA the measurement, unless ``options`` names another.

        Raises ValueError for a name that is none, a modality that a source has not, or an option of a
        modality that is not there.
        """
        if not first:
            raise ValueError("there is nothing to prepare: name at least one source.")
        _require_names(further)
        options.require_modalities([RNA, *further])
        sources: dict[str, Sequence[Source]] = {RNA: [_part(source, RNA) for source in first]}
        measurements = _by_name(options.measurement, [RNA, *further])
        for name, given in further.items():
            if given is not None:
                sources[name] = listed(given)
                continue
            sources[name] = [_part_or_measurement(source, name) for source in first]
            if any(source is part for source, part in zip(first, sources[name], strict=True)):
                named = options.measurement if isinstance(options.measurement, Mapping) else {}
                measurements[name] = named.get(name, name)
                options = replace(options, measurement=measurements)
        return Sources(sources, options)

    def open(self) -> dict[str, list[CellStore]]:
        """The stores of each modality, which share the room for decoded chunks."""
        caches = CsrCaches.split() if sum(map(len, self.by_modality.values())) > 1 else None
        return {
            name: [open_store(source, **self.options.of(name), caches=caches) for source in sources]
            for name, sources in self.by_modality.items()
        }


def listed(sources: Source | Sequence[Source]) -> list[Source]:
    """One source or several as a list."""
    return [sources] if isinstance(sources, str | Path | AnnData) else list(sources)


def _require_names(further: Mapping[str, Source | Sequence[Source] | None]) -> None:
    for name, sources in further.items():
        if name == RNA or not name.isidentifier():
            raise ValueError(
                f"{name!r} cannot be the name of a further modality: a word of letters, digits and _, other "
                f"than {RNA!r}, which is that of the first."
            )
        if sources is not None and not listed(sources):
            raise ValueError(f"the modality {name!r} has no source: name at least one.")


def _part(source: Source, name: str) -> Source:
    """The modality of that name of a MuData; any other source as it is."""
    names = () if isinstance(source, AnnData) else modalities_of(source)
    if not names:
        return source
    whole = str(source).rstrip("/")
    require_part(names, name, whole)
    return f"{whole}{MOD}{name}"


def _part_or_measurement(source: Source, name: str) -> Source:
    """The modality of a MuData, or the experiment itself, which has the modality as a measurement."""
    part = _part(source, name)
    if part is source and not is_soma(source):
        what = "an AnnData in memory" if isinstance(source, AnnData) else source
        raise ValueError(
            f"where the counts of {name!r} are was not said, and {what} is neither a MuData nor a SOMA "
            f"experiment, which could have them. Name their source: --modality {name}=SOURCE."
        )
    return part


def _by_name(option: PerModality, names: Sequence[str]) -> dict[str, str]:
    """An option for all modalities as one for each."""
    if isinstance(option, str):
        return dict.fromkeys(names, option)
    return dict(option or {})
