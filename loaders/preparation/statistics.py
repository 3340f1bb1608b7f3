"""What generation needs to know of the training cells: library sizes and how often labels occur together."""

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfgen_scale.types import AtlasSchema, AtlasStatistics, IntArray, LibraryStatistics, LogNormalTable


def atlas_statistics(
    schema: AtlasSchema,
    *,
    labels: IntArray,
    totals: NDArray[np.float64],
    feature_totals: tuple[NDArray[np.float64], ...],
) -> AtlasStatistics:
    """Statistics of training cells with labels (n, K) and total counts (n, S), all above zero."""
    joint, place, times = np.unique(labels, axis=0, return_inverse=True, return_counts=True)
    libraries = tuple(
        _library(schema, labels, np.log(totals[:, s]), place.reshape(-1)) for s in range(totals.shape[1])
    )
    joint_labels = tuple(
        (tuple(int(code) for code in combination), int(n))
        for combination, n in zip(joint, times, strict=True)
    )
    return AtlasStatistics(libraries, joint_labels, feature_totals)


def _library(
    schema: AtlasSchema, labels: IntArray, log_totals: NDArray[np.float64], joint: IntArray
) -> LibraryStatistics:
    """Maximum likelihood of a log-normal, over all cells, per level of each attribute (METHOD 2), and per
    combination of labels, whose number ``joint`` (n,) says."""
    by_label = {
        covariate.name: {
            category: _table(log_totals[labels[:, k] == code])
            for code, category in enumerate(covariate.categories)
            if (labels[:, k] == code).any()
        }
        for k, covariate in enumerate(schema.covariates)
    }
    return LibraryStatistics(
        overall=_table(log_totals),
        log_min=float(log_totals.min()),
        log_max=float(log_totals.max()),
        by_label=by_label,
        by_joint=_tables(log_totals, joint),
    )


def _tables(log_totals: NDArray[np.float64], group: IntArray) -> tuple[LogNormalTable, ...]:
    """The log-normal of each group of cells (n,), which are numbered from 0 and have a cell each."""
    n = np.bincount(group)
    mean = np.bincount(group, log_totals) / n
    variance = np.bincount(group, (log_totals - mean[group]) ** 2) / n
    rows = zip(n.tolist(), mean.tolist(), np.sqrt(variance).tolist(), strict=True)
    return tuple(LogNormalTable(*row) for row in rows)


def _table(log_totals: NDArray[np.float64]) -> LogNormalTable:
    return LogNormalTable(len(log_totals), float(log_totals.mean()), float(log_totals.std()))


def statistics_to_json(statistics: AtlasStatistics) -> dict[str, Any]:
    """All but ``feature_totals``, which are arrays and live in the index."""
    return {
        "libraries": [asdict(library) for library in statistics.libraries],
        "joint_labels": [{"labels": list(codes), "cells": n} for codes, n in statistics.joint_labels],
    }


def statistics_from_json(
    document: dict[str, Any], feature_totals: tuple[NDArray[np.float64], ...]
) -> AtlasStatistics:
    """The inverse of `statistics_to_json`."""
    return AtlasStatistics(
        libraries=tuple(_library_from_json(library) for library in document["libraries"]),
        joint_labels=tuple((tuple(entry["labels"]), entry["cells"]) for entry in document["joint_labels"]),
        feature_totals=feature_totals,
    )


def _library_from_json(document: dict[str, Any]) -> LibraryStatistics:
    by_label = {
        attribute: {category: LogNormalTable(**table) for category, table in levels.items()}
        for attribute, levels in document["by_label"].items()
    }
    return LibraryStatistics(
        overall=LogNormalTable(**document["overall"]),
        log_min=document["log_min"],
        log_max=document["log_max"],
        by_label=by_label,
        by_joint=tuple(LogNormalTable(**table) for table in document.get("by_joint", ())),
    )
