"""What a CFGen is made of: the shapes of its networks, and how its parts meet."""

from dataclasses import dataclass, field
from typing import Literal

from .autoencoder import AutoencoderConfig
from .ode import OdeConfig
from .velocity import VelocityConfig
from .whitening import WhiteningKind

SizeFactorsKind = Literal["flow", "log_normal"]


@dataclass(frozen=True)
class ModelConfig:
    """What a CFGen is made of.

    size_factors      how library sizes are drawn: by the "flow", together with the latent, p(z, l | y), so
                      that they suit the cell and all that is told of it; or "log_normal", p(l) or p(l | c)
                      beside p(z | y) (paper Eq. 5 and Sec. 4.1)
    size_factors_by   of "log_normal": attribute whose levels have a distribution each, or several, whose
                      joint levels have (see SizeFactors), or None
    ode               how the flow is integrated unless a call says otherwise
    whitening         how latents are given the scale of the noise (see `Whitening`)
    """

    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    velocity: VelocityConfig = field(default_factory=VelocityConfig)
    size_factors: SizeFactorsKind = "flow"
    size_factors_by: str | tuple[str, ...] | None = None
    ode: OdeConfig = field(default_factory=OdeConfig)
    whitening: WhiteningKind = "full"

    def __post_init__(self) -> None:
        if self.size_factors == "flow":
            told = "velocity.size_factor_told" if self.velocity.size_factor_told else ""
            if contrary := "size_factors_by" if self.size_factors_by else told:
                raise ValueError(
                    f"{contrary} is for library sizes that are drawn before the latent: set "
                    "size_factors=log_normal with it, or leave it out; the flow draws sizes that suit all "
                    "that is told of a cell."
                )
