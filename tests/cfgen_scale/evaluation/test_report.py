"""One file with everything in it."""

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from anndata import AnnData
from markupsafe import escape

from cfgen_scale.evaluation import EvaluationSettings, evaluate, summary_table, write_report
from cfgen_scale.evaluation.embedding import embed

HOSTILE = "<script>alert('T & B')</script>"
SETTINGS = EvaluationSettings(n_genes=100, n_components=8, repeats=1)
Report = tuple[dict[str, Any], Path]


@pytest.fixture(scope="module")
def report(simulate: Callable[..., AnnData], tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Metrics and folder of a report over classes of which one has a name that is no good HTML."""
    sets = [simulate(seed, {"B cells": 60, "NK cells": 40, "Monocytes": 30}) for seed in range(3)]
    for cells in sets:
        cells.obs["cell_type"] = cells.obs["cell_type"].replace("Monocytes", HOSTILE)
    folder = tmp_path_factory.mktemp("report") / "new" / "folder"
    settings_before = dict(matplotlib.rcParams)
    metrics = evaluate(sets[0], sets[1], sets[2:], label="cell_type", seeds=(0, 1), settings=SETTINGS)
    write_report(metrics, sets[0], sets[1], sets[2:], folder, "cell_type")
    assert dict(matplotlib.rcParams) == settings_before
    return metrics, folder


def test_only_whole_files_are_left(report: Report) -> None:
    assert sorted(path.name for path in report[1].iterdir()) == ["metrics.json", "report.html"]


def test_the_report_refers_to_nothing_outside_itself(report: Report) -> None:
    html = (report[1] / "report.html").read_text()
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", html)
    assert "<script" not in html
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', html)
    assert len(sources) == 7
    assert all(source.startswith("data:image/png;base64,") for source in sources)


def test_every_picture_is_a_png(report: Report) -> None:
    html = (report[1] / "report.html").read_text()
    for picture in re.findall(r"base64,([A-Za-z0-9+/=]+)", html):
        assert base64.b64decode(picture, validate=True).startswith(b"\x89PNG\r\n")


def test_the_report_says_what_was_found(report: Report) -> None:
    html = (report[1] / "report.html").read_text()
    for name in ("B cells", "NK cells", escape(HOSTILE)):
        assert f'<td class="words">{name}</td>' in html
    for verdict in report[0]["verdicts"]:
        assert verdict["subject"] in html
    for protocol in ("neutral", "centred", "legacy"):
        assert f'<td colspan="7">{protocol} <span>' in html


def test_metrics_json_is_strict_json_with_value_spread_and_floor(report: Report) -> None:
    text = (report[1] / "metrics.json").read_text()
    metrics = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert metrics == json.loads(json.dumps(report[0]))
    for protocol in ("neutral", "centred", "legacy"):
        for kind in ("conditional", "conditional_cell_weighted", "unconditional"):
            for distance in ("w2", "mmd2", "mmd2_unbiased"):
                figure = metrics["protocols"][protocol][kind][distance]
                assert all(isinstance(figure[key], float) for key in ("value", "spread", "floor"))


def test_a_second_report_replaces_the_first(report: Report, simulate: Callable[..., AnnData]) -> None:
    folder = report[1]
    (folder / "report.html").write_text("old")
    test, generated = (simulate(seed, {"B cells": 50, "NK cells": 50}) for seed in (1, 2))
    again = evaluate(None, test, [generated], label="cell_type", seeds=(0,), settings=SETTINGS)
    path = write_report(again, None, test, [generated], folder, "cell_type")
    html = path.read_text()
    assert "there is no neutral protocol and no floor" in html
    assert "NK cells" in html
    assert json.loads((folder / "metrics.json").read_text())["seeds"] == [0]


def test_cells_told_no_class_have_a_report_without_classes(
    simulate: Callable[..., AnnData], tmp_path: Path
) -> None:
    train, test, generated = (simulate(seed, {"B cells": 60}) for seed in range(3))
    generated.obs["cell_type"] = None
    metrics = evaluate(train, test, [generated], label="cell_type", seeds=(0,), settings=SETTINGS)
    html = write_report(metrics, train, test, [generated], tmp_path, "cell_type").read_text()
    assert html.count("data:image/png;base64,") == 4
    assert "Class by class" not in html


def test_the_terminal_gets_every_distance_and_verdict(report: Report) -> None:
    lines = summary_table(report[0]).splitlines()
    assert len([line for line in lines if line.startswith(("neutral", "centred", "legacy"))]) == 27
    value = report[0]["protocols"]["neutral"]["conditional_cell_weighted"]["w2"]["value"]
    assert f"{value:.2f}" in lines[2]
    assert [line for line in lines if line.startswith("[")]


def test_few_cells_are_mapped_by_their_components() -> None:
    real, generated = np.arange(60.0).reshape(20, 3), np.ones((10, 3))
    placed = embed(real, generated)
    assert placed.method == "PCA"
    np.testing.assert_array_equal(placed.real, real[:, :2])
    np.testing.assert_array_equal(placed.generated, generated[:, :2])


@pytest.mark.slow
def test_many_cells_are_mapped_by_neighbourhood_and_repeatably() -> None:
    random = np.random.default_rng(0)
    real, generated = random.normal(size=(2, 300, 5))
    real[:150], generated[:150] = real[:150] + 20, generated[:150] + 20
    placed, again = embed(real, generated), embed(real, generated)
    assert placed.method == "UMAP"
    np.testing.assert_array_equal(placed.real, again.real)
    # two distant groups stay apart, and the generated cells of a group lie with the real ones of it
    centres = [points.mean(0) for points in (placed.real[:150], placed.real[150:])]
    near = [np.linalg.norm(placed.generated[:150] - centre, axis=1) for centre in centres]
    assert (near[0] < near[1]).all()
