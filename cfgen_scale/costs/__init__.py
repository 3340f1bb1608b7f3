"""What training and generation cost: bytes, operations and seconds, to plan with before hours are spent.

Rates come from data sheets (`devices`), or are measured where the work is to be done.
"""

from .machine import Device, Host, Seconds
from .stages import (
    all_reduce_seconds,
    autoencoder_step,
    autoencoder_training,
    encoding,
    flow_training,
    generation,
    link_seconds,
)
from .work import (
    FLOAT,
    Work,
    autoencoder_weights,
    checkpoint_bytes,
    compressed_bytes,
    field_weights,
    parameters,
    raw_bytes,
)

__all__ = [
    "FLOAT",
    "Device",
    "Host",
    "Seconds",
    "Work",
    "all_reduce_seconds",
    "autoencoder_step",
    "autoencoder_training",
    "autoencoder_weights",
    "checkpoint_bytes",
    "compressed_bytes",
    "encoding",
    "field_weights",
    "flow_training",
    "generation",
    "link_seconds",
    "parameters",
    "raw_bytes",
]
