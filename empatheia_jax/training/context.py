"""What every stage of a run shares."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import jax

from empatheia_jax.config import Config
from empatheia_jax.data.batches.builder import BatchBuilder
from empatheia_jax.data.batches.packer import Mixture
from empatheia_jax.data.schema import Widths
from empatheia_jax.monitoring.clock import Clock
from empatheia_jax.training.data import Data
from empatheia_jax.training.stages import Stage

TEXT_ONLY_WIDTHS = Widths((1, 1), (1, 1), 1, 1, 1, 1, 1)  # of arrays that a text-only model does not read


@dataclasses.dataclass(frozen=True)
class TrainingContext:
    """What every stage of a run shares; fixed, but for `evaluations`, to which stages add as they are compiled."""

    folder: Path
    config: Config
    mesh: jax.sharding.Mesh
    data: Data
    clock: Clock
    evaluations: dict[tuple, Callable] = dataclasses.field(default_factory=dict)  # by `Stage.evaluation_key`

    def rows(self, stage: Stage, split: Literal["train", "validation"] = "train") -> BatchBuilder:
        """Build the batch rows of a split, with the stage's prompt and batch shapes.

        Raises:
          RecordError: an Example that no row can hold.
        """
        config, data, train = self.config, self.data, split == "train"
        return BatchBuilder(
            data.train if train else data.validation,
            stage.prompt_kind,
            dataclasses.replace(config, data=stage.data),
            data.tokenizer,
            store=data.store,
            widths=data.widths or TEXT_ONLY_WIDTHS,
            train=train,
            seed=config.seed * 10 + stage.number,
            learn_text="emp" in stage.weights,
            learn_profile=stage.trains_base,
            content=stage.has_content,
            cached=stage.cached,
            mixture=Mixture(data.corpora, config.seed) if data.corpora and train else None,
        )
