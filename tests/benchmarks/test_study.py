"""The study's books: what is missing, what is done, what is one training."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from cfgen_scale.model import CFGen
from jobs.config import load_config
from tests.benchmarks.study import (
    Book,
    Trial,
    chosen_rows,
    key_of,
    missing_trials,
    read_results,
)
from tests.benchmarks.study_rows import ROWS, Row, row_from_json
from tests.benchmarks.study_table import differences, summary, table
from tests.benchmarks.study_trial import LARGE_CLASS, latent_spread
from tests.tiny_model import save_tiny_model

WIDE, GUIDED, DEFAULT = ROWS["width-512"], ROWS["guidance-2"], ROWS["default"]


def result(row: Row, seed: int, *, dataset: str = "kang", split: str = "validation", **figures: Any) -> dict:
    return {
        "dataset": dataset,
        "row": row.name,
        "digest": row.digest(()),
        "seed": seed,
        "split": split,
        "training_seconds": 1.0,
        "figures": {"conditional": 1.0, "weighted": 1.0} | figures,
    }


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_every_row_can_be_trained_and_told_to_another_process(row: Row) -> None:
    load_config(None, row.for_label("cell_type"))
    assert row_from_json(json.dumps(asdict(row))) == row


def test_no_row_is_another_by_a_second_name() -> None:
    assert len({row.digest(()) for row in ROWS.values()}) == len(ROWS)


def test_rows_from_before_there_were_intervals_are_done() -> None:
    """The digest that results of this row were written with."""
    assert Row("default", "").digest(()) == "411616508f57a25a"
    interval = Row("default", "", interval=(0.2, 0.8))
    assert interval.digest(()) != Row("default", "").digest(())
    assert interval.training() == Row("default", "")


def missing(done: set, rows: list[Row], seeds: tuple[int, ...] = (0, 1)) -> list[Trial]:
    return list(missing_trials(["pbmc3k", "kang"], rows, seeds, done, split="validation", common=()))


def test_rows_that_differ_in_drawing_alone_share_a_training_and_seeds_are_outermost() -> None:
    trials = missing(set(), [DEFAULT, WIDE, GUIDED])
    assert [(t.seed, t.dataset, [row.name for row in t.rows]) for t in trials[:4]] == [
        (0, "pbmc3k", ["default", "guidance-2"]),
        (0, "pbmc3k", ["width-512"]),
        (0, "kang", ["default", "guidance-2"]),
        (0, "kang", ["width-512"]),
    ]
    assert len(trials) == 8


def test_what_is_done_is_not_done_again_unless_it_says_something_else() -> None:
    done = {key_of(result(DEFAULT, 0)), key_of(result(WIDE, 0))}
    names = [[row.name for row in trial.rows] for trial in missing(done, [DEFAULT, WIDE, GUIDED], (0,))]
    assert names == [["default", "guidance-2"], ["width-512"], ["guidance-2"]]
    changed = Row("width-512", "", ("model.velocity.width=500",))
    assert len(missing(done, [changed], (0,))) == 2
    on_test = {key_of(result(WIDE, 0, split="test"))}
    assert len(missing(on_test, [WIDE], (0,))) == 2


def test_a_line_cut_short_is_neither_read_nor_joined_to_the_next(tmp_path: Path, capsys) -> None:
    file = tmp_path / "study.jsonl"
    Book(file).write(result(DEFAULT, 0))
    with open(file, "a") as book:
        book.write('{"dataset": "ka')
    assert len(read_results(file)) == 1
    Book(file).write(result(WIDE, 0))
    assert [r["row"] for r in read_results(file)] == ["default", "width-512"]
    assert "cut short" in capsys.readouterr().err


def test_the_table_has_means_and_spreads_of_one_split() -> None:
    results = [result(DEFAULT, seed, auc=auc) for seed, auc in ((0, 0.6), (1, 0.8))]
    results += [result(DEFAULT, 0, split="test", auc=0.1), result(WIDE, 0, auc=0.5)]
    lines = table(results, "validation").splitlines()
    assert "0.700 ± 0.141" in next(line for line in lines if line.startswith("default"))
    wide = next(line for line in lines if line.startswith("width-512"))
    assert "0.500" in wide
    assert "±" not in wide
    assert "0.100" not in "".join(lines)


def test_distances_are_over_the_mean_floor_of_the_seeds() -> None:
    """Ratios 2 and 1 of floors 1 and 3: 5 over 4, not 1.5."""
    parts = ("conditional", "conditional_value", "conditional_floor")
    figures = [dict(zip(parts, of, strict=True)) for of in ((2.0, 2.0, 1.0), (1.0, 3.0, 3.0))]
    assert summary([{"figures": f} for f in figures], "conditional").startswith("1.250 ± 0.707")


def test_rows_are_compared_with_the_default_of_the_same_cells_and_seed() -> None:
    """Variance is worse on either side of 1; a row without a partner is not compared."""
    results = [result(DEFAULT, seed, weighted=1.0 + seed, variance=1.0) for seed in (0, 1)]
    results += [result(WIDE, seed, weighted=1.1 + seed, variance=v) for seed, v in ((0, 0.5), (1, 2.0))]
    results += [result(WIDE, 0, dataset="pbmc3k", weighted=9.0), result(GUIDED, 2)]
    lines = [line.split(" | ") for line in differences(results, "validation").splitlines()]
    row = dict(zip(lines[0], lines[2], strict=True))
    assert (len(lines), row["pairs"]) == (3, "2")
    assert row["over cells"] == "**+0.100 ± 0.000**"
    assert row["variance off 1"] == "**+0.693 ± 0.000**"
    assert row["W2 classes"] == "+0.000 ± 0.000"
    assert row["AUC"] == "-"


def test_rows_are_chosen_by_name_or_given() -> None:
    assert chosen_rows(None, []) == list(ROWS.values())
    assert [row.name for row in chosen_rows(["ot"], [["mine", "seed=3"]])] == ["ot", "mine"]
    with pytest.raises(SystemExit, match="no row nothing"):
        chosen_rows(["nothing"], [])


def test_latents_spread_as_far_as_the_cells_differ(tmp_path: Path) -> None:
    """Of cells each of which comes twice, as far; without a large class nothing is said."""
    model = CFGen.load(save_tiny_model(tmp_path / "model"))
    cells = model.generate(4 * LARGE_CLASS)
    twice = cells[[*range(cells.n_obs)] * 2]
    assert latent_spread(model, twice, cells, "cell_type") == pytest.approx(1, rel=0.02)
    assert latent_spread(model, cells, cells[:10], "cell_type") is None
