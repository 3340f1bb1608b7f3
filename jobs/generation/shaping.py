"""What decides the bytes of an atlas besides its plan: versions of packages, and the machine that draws."""

import platform
import re

PACKAGES = ("cfgen-scale", "torch", "torchdyn", "numpy", "numba", "zarr", "numcodecs", "anndata")
SHAPING = ("plan", "versions", "machine")  # documents of the provenance that decide bytes


def versions() -> dict[str, str]:
    """Of the packages that decide bytes."""
    from importlib.metadata import PackageNotFoundError, version

    def version_of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:  # run from the source tree, as on a cluster
            return "not installed"

    return {package: version_of(package) for package in PACKAGES}


def machine_here(device: str) -> dict[str, str]:
    """What of this machine decides the last bits of matrix products and exponentials: the instructions that
    PyTorch uses, its BLAS; of a plan for cuda the GPU and the version of CUDA as well."""
    import torch

    built = torch.__config__.show()
    libraries = [line.strip(" -") for line in built.splitlines() if re.search(r"MKL.* (Version|v)\d*", line)]
    blas = re.search(r"BLAS_INFO=(\w+)", built)
    described = {
        "instructions": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "blas": ", ".join([blas[1] if blas else "none", *libraries]),
    }
    if device == "cuda":
        described |= {"gpu": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda)}
    return described
