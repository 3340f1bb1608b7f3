"""Workers wait for files that they see late, and say so where they never come."""

import threading
import time
from pathlib import Path

import pytest

from jobs.training.agreement import wait_for


def test_a_file_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    late = tmp_path / "checkpoints" / "000000000000100" / "state.json"

    def write() -> None:
        time.sleep(0.5)
        late.parent.mkdir(parents=True)
        late.write_text("{}")

    threading.Thread(target=write).start()
    assert not late.exists()
    assert wait_for(late, seconds=30).exists()


def test_a_file_that_never_comes_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"result.*all workers share.*--storage"):
        wait_for(tmp_path / "result.safetensors", seconds=0.3)
