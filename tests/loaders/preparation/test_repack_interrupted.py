"""A repack that is killed, that finds the disk full, or that is larger than memory."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

from loaders.layout import CODECS, Codec
from loaders.preparation.packed import PackedWriter
from loaders.preparation.prepare import prepare
from tests.loaders.conftest import make_atlas, write_as
from tests.tree_bytes import tree_bytes

ROOT = Path(__file__).parents[3]

# A process that kills itself when the n-th bucket is asked for, or before the whole takes its name.
KILLED = """
import os, signal, sys
from loaders.preparation import shuffle
from loaders.preparation.prepare import prepare
from loaders.preparation.shuffle import CellShuffle
shuffle.BUCKET_BYTES = 5_000
source, out, codec, moment = sys.argv[1:]
ordered, asked = CellShuffle._ordered, []
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
def counted(self, bucket):
    asked.append(bucket)
    if moment == str(len(asked)):
        die()
    return ordered(self, bucket)
CellShuffle._ordered = counted
if moment == "rename":
    os.replace = die
prepare(source, out, labels=["cell_type"], repack=True, codec=codec, progress=False)
"""


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize(("codec", "moment"), [("none", "1"), ("none", "4"), ("zstd", "rename")])
def test_a_killed_repack_is_completed_by_the_same_call(
    codec: Codec, moment: str, atlas: AnnData, tmp_path: Path
) -> None:
    source, out = write_as(atlas, "h5ad", tmp_path), tmp_path / "out"
    killed = run(KILLED, source, out, codec, moment)
    assert killed.returncode == -9, killed.stderr
    assert not out.exists()
    assert (tmp_path / "out.partial").exists()
    made = prepare(source, out, labels=["cell_type"], repack=True, codec=codec, progress=False)
    assert not (tmp_path / "out.partial").exists()
    whole = prepare(
        source, tmp_path / "whole", labels=["cell_type"], repack=True, codec=codec, progress=False
    )
    assert tree_bytes(made.path) == tree_bytes(whole.path)


# Files may have 20 kB: as on a full disk, a write fails in the middle of the work.
NO_ROOM = """
import resource, signal, sys
from jobs.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def prepare(out):
    return main(["prepare", source, "--out", out, "--repack", "--codec", codec, "--label", "cell_type"])
source, out, codec = sys.argv[1:]
assert prepare(out + "-before") == 0  # also so that what numba compiles is on disk already
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
sys.exit(prepare(out))
"""


@pytest.mark.parametrize("codec", CODECS)
def test_a_full_disk_is_one_clear_error_and_leaves_nothing(codec: Codec, tmp_path: Path) -> None:
    source, out = write_as(make_atlas(n_cells=3_000), "h5ad", tmp_path), tmp_path / "out"
    failed = run(NO_ROOM, source, out, codec)
    assert failed.returncode == 1
    line = failed.stderr.strip().splitlines()[-1]
    assert line.startswith("cfgen-scale: error: ")
    assert os.strerror(errno.EFBIG) in line
    assert "out.partial could not be written and was removed. Make room" in line
    assert sorted(p.name for p in tmp_path.iterdir()) == ["atlas.h5ad", "out-before"]


# Prints the anonymous memory, in MiB, that repacking the atlas took at its peak above what it found.
PEAK = """
import sys, threading, time
from pathlib import Path
from loaders.preparation import shuffle
from loaders import layout
from loaders.preparation.prepare import prepare
# Buckets and shards so small that the smaller atlas fills them.
shuffle.BUCKET_BYTES, layout.SHARD = 2 * 2**20, 2**20
source, out, codec = sys.argv[1:]
def anonymous():
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024
samples, done = [anonymous()], threading.Event()
def watch():
    while not done.wait(0.005):
        samples.append(anonymous())
watching = threading.Thread(target=watch)
watching.start()
prepare(source, out, labels=["donor"], repack=True, codec=codec, progress=False)
done.set()
watching.join()
print(max(samples) - samples[0])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="anonymous memory is read from /proc")
@pytest.mark.parametrize("codec", CODECS)
def test_memory_does_not_grow_with_the_counts(codec: Codec, tmp_path: Path) -> None:
    peaks = []
    for n in (40_000, 100_000):
        source = large_source(tmp_path / f"source_{n}.zarr", n)
        done = run(PEAK, source, tmp_path / f"out_{n}", codec)
        assert done.returncode == 0, done.stderr
        peaks.append(float(done.stdout))
    # 60,000 cells more, whose counts are 150 MB in memory: names, labels and totals take 15 MB
    assert peaks[1] - peaks[0] < 30
    assert peaks[1] < 300


def large_source(path: Path, n_cells: int) -> Path:
    """Cells of 500 genes each, uncompressed so that no cache of chunks is in the way."""
    random, slab, genes = np.random.default_rng(0), 4_000, 500
    indices = np.sort(np.argsort(random.random((slab, 2_000)), axis=1)[:, :genes]).astype(np.int32)
    data = random.integers(1, 9, indices.size).astype(np.uint8)
    counts = csr_matrix((data, indices.ravel(), np.arange(slab + 1) * genes), shape=(slab, 2_000))
    names = [f"gene_{g}" for g in range(2_000)]
    nnz = n_cells * genes
    writer = PackedWriter(path, features=names, nnz=nnz, largest_count=9, codec="none")
    for _ in range(n_cells // slab):
        writer.append(counts)
    index = pd.Index([f"cell_{i}" for i in range(n_cells)], dtype=object)
    writer.finish(pd.DataFrame({"donor": pd.Categorical(np.arange(n_cells) // 1_000)}, index=index))
    return path
