"""What work is done on, and where its time goes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """What a worker computes on.

    flops           operations a second that dense matrix products reach, in the precision of training
    memory_rate     bytes a second between the device and its memory
    memory          bytes
    link            bytes a second from the host's memory; None: the device works in the host's memory
    network         bytes a second that one worker sends in an all-reduce
    launch          seconds from one kernel to the next, at least
    source          where the figures come from
    likelihood      genes of cells a second whose likelihood is taken forwards and backwards, and
    rows            bytes a second of the first layer's weights that non-zeros name: of a processor, measured;
                    None: as fast as memory
    """

    name: str
    flops: float
    memory_rate: float
    memory: float
    link: float | None
    network: float
    launch: float
    source: str
    likelihood: float | None = None
    rows: float | None = None


@dataclass(frozen=True)
class Host:
    """What each worker has of its machine.

    nonzeros        non-zeros a second that its reading threads bring from the store to batches
    draws           genes of cells a second whose counts a processor draws (B x G of a chunk over its
                    seconds); a GPU draws them itself
    compress        bytes a second of counts compressed
    disk            bytes a second that the disk writes
    """

    nonzeros: float
    draws: float
    compress: float
    disk: float


@dataclass(frozen=True)
class Seconds:
    """Where the time of a job goes, a cell, on one worker.

    output          written while the device works on
    assembly        made into an atlas when the device has nothing left to do
    one_processor   the device is the host's own processor, so that nothing overlaps
    operations      of the cell's matrix products: their number, no seconds
    """

    device: float
    link: float
    loader: float
    network: float
    output: float = 0.0
    assembly: float = 0.0
    one_processor: bool = False
    operations: float = 0.0

    @property
    def total(self) -> float:
        """The device works while the host reads, sends or writes; the all-reduce comes on top (it can hide
        behind the backward pass, and this counts on nothing), and assembly behind it."""
        parts = (self.device, self.link, self.loader, self.output)
        return (sum(parts) if self.one_processor else max(parts)) + self.network + self.assembly

    @property
    def bottleneck(self) -> str:
        names = ("device", "link", "loader", "network", "output", "assembly")
        return max(names, key=lambda name: float(getattr(self, name)))
