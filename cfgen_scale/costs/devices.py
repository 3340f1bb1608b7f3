"""Kinds of GPUs to plan for. Rates from the vendor's data sheets, times the share that programs reach."""

from .machine import Device, Host

GB, TFLOP = 1e9, 1e12
# Large bfloat16 products reach some 60 % of the peak without sparsity, streaming kernels some 80 % of the
# memory's; both are common experience, not promises: `plan --measure` on the machine itself tells more.
REACHED_FLOPS, REACHED_MEMORY = 0.6, 0.8
PCIE_4, PCIE_5 = 25 * GB, 50 * GB
# One 200 Gbit/s (A100) or 400 Gbit/s (H100, H200) port a GPU, as in the vendor's own machines, at 80 %.
PORT_200, PORT_400 = 20 * GB, 40 * GB
LAUNCH = 5e-6


def _gpu(name: str, flops: float, memory_rate: float, memory: float, *, hopper: bool, sheet: str) -> Device:
    return Device(
        name,
        flops=REACHED_FLOPS * flops,
        memory_rate=REACHED_MEMORY * memory_rate,
        memory=memory,
        link=PCIE_5 if hopper else PCIE_4,
        network=PORT_400 if hopper else PORT_200,
        launch=LAUNCH,
        source=sheet,
    )


A100_SHEET = "NVIDIA A100 Tensor Core GPU data sheet, SXM: 312 TFLOPS bfloat16 dense"
H100_SHEET = "NVIDIA H100 Tensor Core GPU data sheet, SXM: 989 TFLOPS bfloat16 dense (1,979 with sparsity)"
H200_SHEET = "NVIDIA H200 Tensor Core GPU data sheet, SXM: 989 TFLOPS bfloat16 dense (1,979 with sparsity)"

DEVICES = {
    device.name: device
    for device in (
        _gpu("a100-40", 312 * TFLOP, 1555 * GB, 40 * GB, hopper=False, sheet=A100_SHEET),
        _gpu("a100-80", 312 * TFLOP, 2039 * GB, 80 * GB, hopper=False, sheet=A100_SHEET),
        _gpu("h100", 989 * TFLOP, 3350 * GB, 80 * GB, hopper=True, sheet=H100_SHEET),
        _gpu("h200", 989 * TFLOP, 4800 * GB, 141 * GB, hopper=True, sheet=H200_SHEET),
    )
}

# A host beside a GPU, 16 cores a GPU of which 12 are counted on. Measured here, of one thread: packed cells
# read from memory 350e6 non-zeros/s (bound by the memory, so that a dozen are taken for two); negative
# binomials drawn 210e6 genes/s; blosc-zstd with shuffle 285e6 bytes/s. And one NVMe disk.
GPU_HOST = Host(nonzeros=7e8, draws=12 * 210e6, compress=12 * 285e6, disk=2 * GB)
