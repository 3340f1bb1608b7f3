"""The most memory this process holds within a block, as Linux counts it."""

import threading
from pathlib import Path
from types import TracebackType

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
PAUSE_SECONDS = 0.02
FORGET_PEAK = "5"  # see clear_refs in proc(5)


class PeakMemory:
    """Peaks within ``with PeakMemory() as memory``, in bytes, of the whole process and its libraries.

    peak_rss        resident set, the kernel's own high-water mark
    peak_anonymous  without mapped files, the largest of 50 samples a second
    """

    def __enter__(self) -> "PeakMemory":
        CLEAR.write_text(FORGET_PEAK)
        self._anonymous = 0
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._sampler.join()
        self._resident = _status("VmHWM")

    def peaks(self) -> dict[str, int]:
        return {"peak_rss": self._resident, "peak_anonymous": self._anonymous}

    def _sample(self) -> None:
        while True:
            self._anonymous = max(self._anonymous, _status("RssAnon"))
            if self._over.wait(PAUSE_SECONDS):
                return


def _status(name: str) -> int:
    lines = STATUS.read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
