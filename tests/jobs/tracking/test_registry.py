"""Models under a name: registered once, loaded by MLflow, found again by alias, version or path."""

import json

import mlflow
import numpy as np
import pandas as pd
import pytest

from cfgen_scale import CFGen
from cfgen_scale.types import SchemaError
from jobs.serving import ServedModel
from jobs.tracking import TrackingError, find_model, list_models, promote, require_valid, resolve_model
from tests.tiny_model import GENES


@pytest.fixture
def served(start, save_model, mlflow_uri, monkeypatch):
    """The model as a client of MLflow loads it."""
    start().register(save_model(), "pbmc", "champion")
    # Not set_tracking_uri: it leaves this variable behind, for tests of other stores to follow.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    return mlflow.pyfunc.load_model("models:/pbmc@champion")


def test_a_model_is_found_by_alias_version_run_and_directory(start, save_model, run_dir, mlflow_uri):
    tracker = start()
    model = save_model("first/model")
    assert tracker.register(model, "pbmc", "champion") == 1
    digest = CFGen.load(model).digest
    for name in ("models:/pbmc@champion", "models:/pbmc/1"):
        found = find_model(name, uri=mlflow_uri)
        assert found.path != model
        assert found.registered == {"name": "pbmc", "version": 1}
        assert CFGen.load(found.path).digest == digest
    assert find_model(model).registered == {}
    assert resolve_model(run_dir) == model
    assert resolve_model(model) == model


def test_the_same_model_is_registered_once_and_aliases_move(start, save_model, mlflow_uri):
    tracker, first, second = start(), save_model("a", seed=0), save_model("b", seed=1)
    assert tracker.register(first, "pbmc", "champion") == 1
    assert tracker.register(first, "pbmc", "champion") == 1
    assert tracker.register(second, "pbmc", "champion") == 2
    promote("pbmc", 1, "stable", uri=mlflow_uri)
    newest, oldest = list_models("pbmc", uri=mlflow_uri)
    assert (newest.version, newest.aliases, newest.digest) == (2, ("champion",), CFGen.load(second).digest)
    assert (oldest.version, oldest.aliases, oldest.run_id) == (1, ("stable",), tracker.run_id)
    assert CFGen.load(resolve_model("models:/pbmc@stable", uri=mlflow_uri)).digest == oldest.digest


def test_mlflow_loads_and_runs_what_was_registered(served):
    rows = pd.DataFrame({"cell_type": ["B", None, "T"], "donor": ["d1", "d2", None]})
    counts = served.predict(rows, params={"seed": 7})
    assert list(counts.columns) == list(GENES)
    assert counts.shape == (3, len(GENES))
    assert (counts.dtypes == np.int32).all()
    assert counts.to_numpy().sum() > 0
    pd.testing.assert_frame_equal(counts, served.predict(rows, params={"seed": 7}))
    assert not counts.equals(served.predict(rows, params={"seed": 8}))


def test_a_served_model_draws_the_cells_that_the_model_itself_draws(served, save_model):
    model = CFGen.load(save_model("same"))
    weights = {"cell_type": 2.0}
    rows = pd.DataFrame({"donor": ["d2"], "cell_type": ["T"]})
    cells = model.generate_cells(np.array([[2, 1]]), guidance=[2.0, 1.0], seed=4)
    counts = served.predict(rows, params={"seed": 4, "guidance": json.dumps(weights)})
    np.testing.assert_array_equal(counts.to_numpy(), cells.counts[0].toarray())


def test_a_served_model_refuses_what_it_does_not_know(served, save_model):
    with pytest.raises(SchemaError, match="Known attributes: cell_type, donor"):
        served.predict(pd.DataFrame({"tissue": ["lung"]}))
    with pytest.raises(SchemaError, match="Known categories: 'B', 'NK', 'T'"):
        served.predict(pd.DataFrame({"cell_type": ["Treg"]}))
    with pytest.raises(SchemaError, match="no attribute 'tissue'"):
        served.predict(pd.DataFrame({"donor": ["d1"]}), params={"guidance": '{"tissue": 1}'})
    with pytest.raises(ValueError, match=r"unknown parameters \['sead'\]"):
        ServedModel(CFGen.load(save_model("same"))).predict(pd.DataFrame({"donor": ["d1"]}), {"sead": 1})


@pytest.mark.parametrize("name", ["models:/pbmc@best", "models:/pbmc/9", "models:/other@champion"])
def test_an_unknown_model_lists_the_known_ones(start, save_model, mlflow_uri, name):
    start().register(save_model(), "pbmc", "champion")
    with pytest.raises(TrackingError, match=r"There are: models:/pbmc@champion, models:/pbmc/1"):
        resolve_model(name, uri=mlflow_uri)


def test_unknown_names_and_versions_are_refused(start, save_model, mlflow_uri):
    start().register(save_model(), "pbmc")
    with pytest.raises(TrackingError, match=r"no registered model 'pmbc'. Registered: pbmc"):
        list_models("pmbc", uri=mlflow_uri)
    with pytest.raises(TrackingError, match=r"no version 5. Versions: 1"):
        promote("pbmc", 5, "champion", uri=mlflow_uri)


@pytest.mark.parametrize(
    ("name", "alias"), [("a/b", None), ("it's", None), ("pbmc", "latest"), ("pbmc", "v2")]
)
def test_names_that_mlflow_reserves_are_refused_early(name, alias):
    with pytest.raises(TrackingError, match=r"cannot (name a model|be an alias)"):
        require_valid(name, alias)


def test_a_path_without_a_model_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        resolve_model(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no model yet"):
        resolve_model(tmp_path)
