"""The options of StyleTTS 2's inference."""

import dataclasses

from empatheia_jax.generators.styletts2.errors import StyleTTS2Error


@dataclasses.dataclass(frozen=True)
class SynthesisOptions:
    """Options of synthesis; the defaults are upstream's.

    Attributes:
      alpha: share of the sampled acoustic style in its mixture with the reference's (0: the reference alone).
      beta: the same for the prosodic style.
      steps: steps of style diffusion.
      embedding_scale: strength of guidance by the text; 1 is none.
      speed: speaking rate relative to the predicted durations; 1.2 is a fifth faster.
      carry: weight of the previous sentence's style in the next sentence's.
      seed: seed of the style's and the source's noise.

    Raises:
      StyleTTS2Error: a value out of range.
    """

    alpha: float = 0.3
    beta: float = 0.7
    steps: int = 5
    embedding_scale: float = 1.0
    speed: float = 1.0
    carry: float = 0.7
    seed: int = 0

    def __post_init__(self):
        for name in ("alpha", "beta", "carry"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise StyleTTS2Error(f"{name} {getattr(self, name)} is not in 0..1")
        if not 0.25 <= self.speed <= 4.0:
            raise StyleTTS2Error(f"speed {self.speed} is not in 0.25..4")
        if not 2 <= self.steps <= 1000:
            raise StyleTTS2Error(f"{self.steps} steps of diffusion: give 2 to 1000")
        if not 0 <= self.seed < 2**31:
            raise StyleTTS2Error(f"seed {self.seed} is not in 0..2^31")
