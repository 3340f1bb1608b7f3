"""A run that takes the autoencoder of another one."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from jobs.training.run_directory import RunError
from tests.small_atlas import metrics_of, train_small

WIDER = ["model.velocity.width=24"]


def weights(run: Path) -> dict[str, list[float]]:
    tensors = load_file(run / "model" / "weights.safetensors")
    return {name: tensor.tolist() for name, tensor in tensors.items() if name.startswith("autoencoder.")}


def test_the_flow_is_trained_anew_on_the_same_autoencoder(
    trained: Path, small_prepared: Path, tmp_path: Path
) -> None:
    run = train_small(
        "flow", data=small_prepared, run=tmp_path / "run", overrides=WIDER, autoencoder_of=trained
    )
    assert weights(run) == weights(trained)
    assert load_file(run / "model" / "weights.safetensors")["velocity.inward.weight"].shape[0] == 24
    stages = [[row for row in metrics_of(r) if row["stage"] == "autoencoder"] for r in (run, trained)]
    assert stages[0] == stages[1]
    again = train_small("all", data=small_prepared, run=run, overrides=WIDER, autoencoder_of=trained)
    assert again == run


def test_with_the_same_flow_it_is_the_same_model(trained: Path, small_prepared: Path, tmp_path: Path) -> None:
    run = train_small("all", data=small_prepared, run=tmp_path / "run", autoencoder_of=trained)
    ours, theirs = (load_file(r / "model" / "weights.safetensors") for r in (run, trained))
    assert all((ours[name] == theirs[name]).all() for name in theirs)


@pytest.mark.parametrize(
    "override", ["autoencoder.learning_rate=2e-3", "model.autoencoder.latent=3", "seed=5"]
)
def test_an_autoencoder_that_this_run_would_not_train_is_refused(
    trained: Path, small_prepared: Path, tmp_path: Path, override: str
) -> None:
    with pytest.raises(RunError, match=rf"trained with {override.split('=')[0]}=.*Give the same"):
        train_small(
            "all", data=small_prepared, run=tmp_path / "run", overrides=[override], autoencoder_of=trained
        )
    assert not (tmp_path / "run").exists()


def test_one_of_other_cells_or_none_is_refused(trained: Path, small_prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run with a trained autoencoder"):
        train_small("all", data=small_prepared, run=tmp_path / "run", autoencoder_of=tmp_path / "none")
    moved = shutil.copytree(trained, tmp_path / "moved")
    document = (moved / "run.json").read_text()
    begun = document.index('"data_digest"')
    (moved / "run.json").write_text(document[:begun] + document[begun:].replace('": "', '": "0', 1))
    with pytest.raises(RunError, match="trained on other cells"):
        train_small("all", data=small_prepared, run=tmp_path / "run", autoencoder_of=moved)
