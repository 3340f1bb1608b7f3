"""One MLflow run per run directory: taken up again, nothing logged twice, nothing contradicted."""

import pytest

from jobs.tracking import TrackingError


def row(cells_seen, stage="autoencoder", **metrics):
    return {"stage": stage, "cells_seen": cells_seen, "cells_total": 1000, **metrics}


def history(tracker, key):
    return [(m.step, m.value) for m in tracker.client.get_metric_history(tracker.run_id, key)]


def info(tracker):
    return tracker.client.get_run(tracker.run_id).info


def test_a_run_holds_parameters_dataset_metrics_and_files(start, run_dir):
    tracker = start({"seed": 3, "flow": {"pairing": "none", "cells": None}, "hidden": [8, 4]})
    tracker.log_rows([row(100, loss=2.5, learning_rate=1e-3), row(50, stage="flow", loss=0.9)])
    (run_dir / "figure.svg").write_text("<svg/>")
    tracker.log_artifact(run_dir / "figure.svg", "report")
    run = tracker.client.get_run(tracker.run_id)
    assert run.info.run_name == "first"
    assert run.data.params == {
        "seed": "3",
        "flow.pairing": "none",
        "flow.cells": "null",
        "hidden": "[8, 4]",
    }
    assert run.data.metrics == {
        "autoencoder/loss": 2.5,
        "autoencoder/learning_rate": 1e-3,
        "flow/loss": 0.9,
    }
    dataset = run.inputs.dataset_inputs[0].dataset
    assert (dataset.name, dataset.digest) == ("pbmc", "ab" * 18)
    assert run.data.tags["cfgen_scale.data_digest"] == "ab" * 32
    assert (run_dir.parent / "mlflow-artifacts" / tracker.run_id / "artifacts/report/figure.svg").is_file()


def test_a_note_is_a_tag_and_its_numbers_are_metrics(start):
    tracker = start()
    noted = row(1200, stage="flow", workers=1, threads=2, note="resumed with 2 -> 1 workers: ...")
    tracker.log_rows([noted])
    tracker.log_rows([noted])
    assert tracker.client.get_run(tracker.run_id).data.tags["note.flow.1200"] == noted["note"]
    assert history(tracker, "flow/workers") == [(1200, 1.0)]


def test_a_killed_run_is_taken_up_by_the_same_command(start):
    killed = start()
    assert info(killed).status == "RUNNING"
    assert info(killed).end_time is None
    again = start()
    assert again.run_id == killed.run_id
    again.end()
    assert info(again).status == "FINISHED"
    assert info(start()).status == "RUNNING"
    assert len(again.client.search_runs([info(again).experiment_id])) == 1
    assert len(again.client.get_run(again.run_id).inputs.dataset_inputs) == 1


def test_a_step_that_is_repeated_is_logged_once(start):
    first = start()
    first.log_rows([row(100, loss=4.0), row(200, loss=3.0)])
    first.log_rows([row(100, loss=4.0), row(200, loss=3.0, validation_loss=3.5)])
    resumed = start()
    resumed.log_rows(
        [row(200, loss=3.0, validation_loss=3.5), row(300, loss=2.0), row(300, stage="flow", loss=1)]
    )
    assert history(resumed, "autoencoder/loss") == [(100, 4.0), (200, 3.0), (300, 2.0)]
    assert history(resumed, "autoencoder/validation_loss") == [(200, 3.5)]
    assert history(resumed, "flow/loss") == [(300, 1.0)]


def test_rows_that_could_not_be_logged_are_logged_when_given_again(start, monkeypatch):
    tracker = start()

    def down(*_, **__):
        raise ConnectionError

    with monkeypatch.context() as broken:
        broken.setattr(tracker.client, "log_batch", down)
        with pytest.raises(ConnectionError):
            tracker.log_rows([row(100, loss=4.0)])
    tracker.log_rows([row(100, loss=4.0)])
    assert history(tracker, "autoencoder/loss") == [(100, 4.0)]


def test_many_rows_are_more_than_one_request(start):
    tracker = start()
    tracker.log_rows([row(n, loss=float(n)) for n in range(1500)])
    assert len(history(tracker, "autoencoder/loss")) == 1500


def test_what_arrived_before_an_error_is_logged_once(start, monkeypatch):
    """Of two requests the second fails; given again, the rows of the first are there already."""
    tracker = start()
    log, sent = tracker.client.log_batch, []

    def fail_once(run_id, metrics):
        sent.append(len(metrics))
        if len(sent) == 2:
            raise ConnectionError
        log(run_id, metrics=metrics)

    monkeypatch.setattr(tracker.client, "log_batch", fail_once)
    rows = [row(n, loss=float(n)) for n in range(1500)]
    with pytest.raises(ConnectionError):
        tracker.log_rows(rows)
    tracker.log_rows(rows)
    assert sent == [1000, 500, 500]
    assert [step for step, _ in history(tracker, "autoencoder/loss")] == list(range(1500))


def test_an_error_of_the_body_is_seen_also_where_mlflow_cannot_be_told(start, monkeypatch):
    tracker = start()

    def fail(*_):
        raise ConnectionError

    monkeypatch.setattr(tracker.client, "set_terminated", fail)
    with pytest.raises(KeyError), tracker:
        raise KeyError


def test_parameters_may_be_added_but_not_changed(start):
    first = start({"flow": {"cells": 100}})
    second = start({"flow": {"cells": 100}, "seed": 1})
    assert first.client.get_run(second.run_id).data.params == {"flow.cells": "100", "seed": "1"}
    with pytest.raises(TrackingError, match=r"parameter flow\.cells .* is 100 in MLflow .* now 200.*--run"):
        start({"flow": {"cells": 200}})


def test_a_run_tracked_elsewhere_is_refused(start, tmp_path):
    start()
    with pytest.raises(TrackingError, match=r"experiment 'tests', not at .* in 'others'.*mlflow\.json"):
        start(experiment="others")


def test_a_deleted_run_is_refused(start, run_dir):
    tracker = start()
    tracker.client.delete_run(tracker.run_id)
    with pytest.raises(TrackingError, match=r"was deleted in .*mlflow\.json"):
        start()


def test_a_run_that_the_store_does_not_know_is_refused(start, migrated_store, tmp_path):
    start()
    (tmp_path / "mlflow.db").write_bytes(migrated_store.read_bytes())
    with pytest.raises(TrackingError, match="is not in sqlite"):
        start()


@pytest.mark.parametrize(
    ("error", "status"), [(None, "FINISHED"), (ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_the_status_says_how_training_ended(start, error, status):
    tracker = start()
    if error is None:
        with tracker:
            pass
    else:
        with pytest.raises(error), tracker:
            raise error
    assert info(tracker).status == status
