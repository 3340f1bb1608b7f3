"""Progress is read from a file that another process appends to, and may cut back when it resumes."""

import io
import json
import threading
import time
from pathlib import Path

import pytest

from jobs.training.progress import MetricsReader, ProgressBar, follow, latest_by_stage, progress_line, watch


def row(cells_seen, stage="autoencoder", **more):
    return {"stage": stage, "cells_seen": cells_seen, "cells_total": 1000, "loss": 2.5, **more}


def append(path: Path, *rows):
    with path.open("a") as file:
        file.writelines(json.dumps(r) + "\n" for r in rows)


def test_new_rows_are_read_once(tmp_path):
    reader = MetricsReader(tmp_path / "metrics.jsonl")
    assert reader.new_rows() == []
    append(reader.path, row(100), row(200))
    assert reader.new_rows() == [row(100), row(200)]
    assert reader.new_rows() == []
    append(reader.path, row(300))
    assert reader.new_rows() == [row(300)]


def test_a_line_under_way_is_left_for_later(tmp_path):
    reader = MetricsReader(tmp_path / "metrics.jsonl")
    line = json.dumps(row(100)) + "\n"
    reader.path.write_text(line + line[:10])
    assert reader.new_rows() == [row(100)]
    reader.path.write_text(line + line)
    assert reader.new_rows() == [row(100)]


@pytest.mark.parametrize("appended", [0, 1, 5], ids=["shorter", "as long", "longer"])
def test_after_a_cut_no_row_is_missed(tmp_path, appended):
    """Also where the file has grown past the old position between two looks."""
    reader = MetricsReader(tmp_path / "metrics.jsonl")
    append(reader.path, row(100), row(200), row(300))
    reader.new_rows()
    reader.path.write_text("")
    now = [row(100), row(200), *(row(300, loss=9.5 + i) for i in range(appended))]
    append(reader.path, *now)
    assert reader.new_rows() == now


def test_a_broken_line_names_the_file(tmp_path):
    reader = MetricsReader(tmp_path / "metrics.jsonl")
    reader.path.write_text("{'not json'}\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl has a line that is not JSON"):
        reader.new_rows()


def test_follow_gives_rows_as_they_come_and_the_last_ones_after_stop(tmp_path):
    path, stop, seen, came = tmp_path / "metrics.jsonl", threading.Event(), [], threading.Event()

    def listen(rows):
        seen.extend(rows)
        came.set()

    thread = threading.Thread(target=follow, args=(path, listen, stop), kwargs={"interval": 0.01})
    thread.start()
    append(path, row(100))
    assert came.wait(10)
    append(path, row(200), row(300))
    stop.set()
    thread.join(10)
    assert seen == [row(100), row(200), row(300)]


def test_watch_has_told_everything_at_the_end_of_the_body(tmp_path):
    path, seen, shown = tmp_path / "metrics.jsonl", [], io.StringIO()
    with watch(path, seen.extend, stream=shown, interval=60):
        append(path, row(500))
    assert seen == [row(500)]
    assert "autoencoder:  50% of 1,000 cells" in shown.getvalue()


def test_what_a_failing_listener_missed_is_told_when_it_works_again(tmp_path):
    path, seen, calls, shown = tmp_path / "metrics.jsonl", [], [], io.StringIO()

    def fail_at_first(rows):
        calls.append(len(rows))
        if len(calls) < 4:
            raise ConnectionError("tracking server is down")
        seen.extend(rows)

    with watch(path, fail_at_first, stream=shown, interval=0.01, pauses=(0.01, 0.02)):
        for cells in (100, 200, 300):
            append(path, row(cells))
            time.sleep(0.03)
    assert seen == [row(100), row(200), row(300)]
    assert shown.getvalue().count("metrics cannot be logged (ConnectionError: tracking server is down)") == 1
    assert shown.getvalue().count("metrics are logged again") == 1


def test_after_the_body_a_listener_is_given_time_to_recover(tmp_path):
    path, seen = tmp_path / "metrics.jsonl", []
    recovers = time.monotonic() + 0.5

    def fail_at_first(rows):
        if time.monotonic() < recovers:
            raise ConnectionError
        seen.extend(rows)

    with watch(path, fail_at_first, stream=io.StringIO(), interval=0.01, pauses=(0.05, 60)):
        append(path, row(100))
    assert seen == [row(100)]


def test_a_listener_that_fails_for_good_stops_nothing_and_is_an_error_at_the_end(tmp_path):
    path, seen, done = tmp_path / "metrics.jsonl", [], []

    def fail(rows):
        raise ConnectionError("tracking server is down")

    def train():
        with watch(path, fail, seen.extend, stream=io.StringIO(), interval=0.01, at_the_end=0.0):
            append(path, row(100))
            while not seen:
                time.sleep(0.01)
            append(path, row(200))
            done.append(True)

    with pytest.raises(RuntimeError, match=r"could not be logged .*server is down.*same command again"):
        train()
    assert done == [True]
    assert seen == [row(100), row(200)]


def test_the_error_of_the_body_comes_before_that_of_a_listener(tmp_path):
    append(tmp_path / "metrics.jsonl", row(100))

    def fail(rows):
        raise ConnectionError

    with pytest.raises(KeyError), watch(tmp_path / "metrics.jsonl", fail, stream=io.StringIO()):
        raise KeyError


def test_a_log_file_gets_few_lines(tmp_path):
    shown = io.StringIO()
    bar = ProgressBar(shown)
    for cells in range(1, 1001):
        bar.show([row(cells)])
    for cells in range(1, 1001):
        bar.show([row(cells, stage="flow")])
    lines = shown.getvalue().splitlines()
    assert len(lines) == 22
    assert lines[10].startswith("autoencoder: 100% of 1,000 cells")
    assert lines[11].startswith("flow:   0%")


def test_a_note_is_told_once_and_is_no_progress():
    """The reader gives rows again after a resume has cut the file."""
    shown = io.StringIO()
    bar = ProgressBar(shown)
    noted = {"stage": "flow", "cells_seen": 1200, "cells_total": 9000, "note": "resumed with 2 -> 1 workers"}
    for _ in range(2):
        bar.show([row(100), noted])
    assert shown.getvalue().count("flow after 1,200 cells: resumed with 2 -> 1 workers.") == 1
    assert latest_by_stage([row(100), noted]).keys() == {"autoencoder"}


def test_a_terminal_gets_one_bar_a_stage_that_can_go_back():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    shown = Terminal()
    bar = ProgressBar(shown)
    bar.show([row(800, cells_per_second=100.0)])
    bar.show([row(200)])
    bar.show([row(1010, stage="flow", cells_per_second=100.0)])
    bar.close()
    text = shown.getvalue()
    assert "autoencoder  80%" in text
    assert "100 cells/s, 00:02 left, loss 2.5" in text
    assert "autoencoder  20%" in text
    assert "flow 100%" in text
    assert text.count("\n") == 2


def test_the_latest_value_of_each_field_is_kept():
    rows = [row(100, validation_loss=3.0), row(200), row(100, stage="flow")]
    latest = latest_by_stage(rows)
    assert list(latest) == ["autoencoder", "flow"]
    assert latest["autoencoder"] == row(200, validation_loss=3.0)
    line = progress_line(row(250, cells_per_second=1431.0, validation_loss=2.75))
    assert line == (
        "autoencoder:  25% of 1,000 cells, 1,431 cells/s, 00:00 left, loss 2.5, validation loss 2.75"
    )
