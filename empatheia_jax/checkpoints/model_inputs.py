"""What a run's model was built for: DIR/model_inputs.json has the settings of the feature store of its training.

With it a run answers where its feature store is not.
"""

from pathlib import Path

from empatheia_jax.checkpoints.workdir import expected_store, open_store
from empatheia_jax.config import Config
from empatheia_jax.data.batches.pipeline import settings_widths
from empatheia_jax.data.features.records import StoreError
from empatheia_jax.data.features.store import settings_differences
from empatheia_jax.data.schema import Widths
from empatheia_jax.runtime.atomic import write_json
from empatheia_jax.runtime.json_files import read_json

FILE_NAME = "model_inputs.json"


def write_model_inputs(folder: Path, settings: dict) -> None:
    """Write the settings of the run's feature store (`data.features.store.store_settings`)."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FILE_NAME, {"settings": settings})


def model_widths(folder: Path, config: Config) -> Widths | None:
    """Return the widths of a run's model; None where it is text-only.

    Args:
      folder: the run's.
      config: with the generators that will speak and animate.

    Raises:
      StoreError: the model was trained for other encoders or generators than the config's; or the run is an older one,
        without the file, and its feature store is not there.
    """
    if not config.modalities:
        return None
    path = folder / FILE_NAME
    if not path.exists():
        return settings_widths(open_store(folder, config).settings)
    settings = read_json(path)["settings"]
    differences = settings_differences(settings, expected_store(config))
    if differences:
        raise StoreError(
            f"{folder} was trained with other encoders or generators ({differences}): give those that it was trained "
            "with, or train a run for these"
        )
    return settings_widths(settings)
