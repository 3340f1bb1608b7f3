"""`cfgen-scale plan`: an atlas planned for GPUs that are not here, and this machine measured."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cfgen_scale.costs import Work, link_seconds, parameters
from cfgen_scale.costs.devices import DEVICES
from cfgen_scale.model_config import ModelConfig
from cfgen_scale.ode import OdeConfig
from jobs.cli import main
from jobs.planning.forecast import duration, evaluations, in_bytes
from loaders.preparation.prepare import prepare
from loaders.streaming.stream import CellStream
from tests.small_atlas import N_GENES, small_atlas


def planned(capsys: pytest.CaptureFixture[str], line: str) -> str:
    assert main(["plan", *line.split()]) == 0
    return capsys.readouterr().out


def test_a_plan_names_times_bytes_and_the_bottleneck(capsys: pytest.CaptureFixture[str]) -> None:
    said = planned(capsys, "--cells 100e6 --genes 20000 --gpus 64 --gpu a100-80")
    for part in ("autoencoder training", "encoding", "flow training", "generation", "bottleneck: ", "20 GB"):
        assert part in said
    assert re.search(r"packed atlas +600 GB as it is, ~100 GB with zstd", said)


def test_a_plan_says_how_many_operations_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    """Of one epoch of the flow: 6 a weight and cell, but for what reads latent and time."""
    said = planned(capsys, "--cells 1e6 --genes 20000")
    stages = re.findall(r"^(\w[\w ]+?)  .* (\d\.?\d*e\+\d+)   ", said, re.MULTILINE)
    found = {name: float(operations) for name, operations in stages}
    assert set(found) == {"autoencoder training", "encoding", "flow training", "generation"}
    weights = parameters(Work(1e6, 20_000, 1000, ModelConfig()))[1]
    assert 5 * weights * 1e6 < found["flow training"] < 6 * weights * 1e6


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_what_crosses_to_a_device_is_what_a_packed_batch_holds(codec: str, tmp_path: Path) -> None:
    """Counts are shipped as they are read and widened there (`SparseCounts.from_csr`)."""
    packed = prepare(
        small_atlas(), tmp_path / "packed", min_cells_per_gene=0, repack=True, codec=codec, progress=False
    )
    (counts,) = next(iter(CellStream(packed, split="train", batch_cells=64, seed=0))).counts
    small = counts.data.dtype == np.uint8
    bytes_of_nonzero = (counts.indices.nbytes + counts.data.nbytes) / counts.nnz + small
    work = Work(1.0, N_GENES, counts.nnz / 64, ModelConfig())
    device = replace(DEVICES["h100"], link=1.0)
    assert link_seconds(work, device) == pytest.approx(bytes_of_nonzero * work.nonzeros)


def test_generation_is_planned_in_chunks_of_the_device(capsys: pytest.CaptureFixture[str]) -> None:
    """Kernels of the field are launched once for 8,192 cells, so that they do not hold up an H100."""
    found = re.search(
        r"generation .* device ([\d.]+)", planned(capsys, "--cells 1e6 --genes 20000 --gpu h100")
    )
    assert found is not None
    assert 1 < float(found[1]) < 5


def test_more_gpus_more_cells_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    rates = []
    for gpus in (1, 8):
        found = re.search(r"generation +([\d,]+)", planned(capsys, f"--cells 1e6 --gpus {gpus}"))
        assert found is not None
        rates.append(int(found[1].replace(",", "")))
    assert rates[1] == pytest.approx(8 * rates[0], rel=1e-3)


def test_the_model_planned_is_that_of_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    small = planned(capsys, "--cells 1e6")
    large = planned(capsys, "--cells 1e6 model.velocity.width=2048")
    assert small != large
    # Three blocks of two matrices of 2,048 x 2,048, and little else.
    assert "0.6 M parameters" in small
    assert "26.2 M parameters" in large


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--cells 1e6 --gpu b200", "no figures of a GPU 'b200'. Known: a100-40, a100-80, h100, h200"),
        ("--cells 0", "--cells must be positive"),
        ("--cells 1e6 --genes 100 --nonzeros 200", "are more than its 100 genes"),
        ("--cells 1e6 --guided -1", "--guided must not be negative"),
        ("--cells 1e6 model.velocity.wdith=3", "Did you mean model.velocity.width"),
    ],
)
def test_a_plan_of_nonsense_is_refused(line: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *line.split()]) == 1
    assert says in capsys.readouterr().err


def test_evaluations_of_a_solver() -> None:
    assert evaluations(OdeConfig("euler", steps=10)) == 10
    assert evaluations(OdeConfig("midpoint", steps=10)) == 20
    assert evaluations(OdeConfig("dopri5", steps=10)) > 100


def test_figures_are_readable() -> None:
    assert [duration(s) for s in (0.33, 47, 600, 9000)] == ["0.33 s", "47 s", "10 min", "2.5 h"]
    assert [in_bytes(n) for n in (10, 4.16e8, 2e10, 5e15)] == ["10 B", "416 MB", "20 GB", "5e+03 TB"]


@pytest.mark.slow
def test_this_machine_predicted_and_measured(capsys: pytest.CaptureFixture[str]) -> None:
    said = planned(capsys, "--measure --genes 1000")
    for stage in ("autoencoder training", "encoding", "flow training", "generation"):
        found = re.search(rf"{stage} +[\d,]+ +[\d,]+ +(\d+\.\d\d)", said)
        assert found is not None
        # What was measured, of what was predicted: wide, since other work disturbs this machine.
        assert 1 / 2.5 < float(found[1]) < 2.5, said
