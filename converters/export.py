"""Export converted weights to the transformers directory they came from."""

import json
from pathlib import Path

from safetensors.numpy import load_file

from converters import travel, vicuna
from converters.convert import CARRIED_FILE, FAMILIES, OWN_FILES
from converters.readers import ConversionError
from converters.rules import inverse_rules
from converters.shards import Shards
from converters.source import abstract_parameters
from empatheia_jax.checkpoints.weights import read_arrays, read_metadata, stored_arrays


def export_weights(weights: Path, output: Path) -> dict[str, int]:
    """Write the transformers directory that converted weights came from, its tensors bit for bit.

    The vision tower of a whole CLIP comes back as a CLIPVisionModel; task heads are not kept.

    Args:
      weights: a converted folder of a transformers family.
      output: a new folder.
    Returns:
      Counts of tensors and bytes written.
    Raises:
      ConversionError: no converted weights of a transformers family.
      ConversionError: an output that exists already.
    """
    weights = Path(weights)
    metadata = read_metadata(weights)
    exportable = [family for family in FAMILIES if family not in OWN_FILES]
    if metadata.get("family") not in exportable:
        raise ConversionError(
            f"{weights}: weights of family {metadata.get('family')!r}; those of {', '.join(exportable)} can be exported"
        )
    table, settings = FAMILIES[metadata["family"]], metadata["source"]["config"]
    config = table.parse_config(settings, None)
    prefix = vicuna.PREFIX if table is vicuna else ""
    inverse = inverse_rules(table.rules(config, prefix), stored_arrays(abstract_parameters(table, config)))
    settings = settings.get("vision_config", settings) | {"architectures": [table.CLASS]}
    settings["model_type"] = table.MODEL_TYPES[-1] if table is not vicuna else settings["model_type"]
    with Shards(output) as shards:
        for name, array in read_arrays(weights):
            source, transform = inverse[name]
            shards.add(source, transform.invert(array))
        if (weights / CARRIED_FILE).exists():
            for name, array in load_file(weights / CARRIED_FILE).items():
                shards.add(f"{prefix}{name}", array)
        (shards.folder / "config.json").write_text(json.dumps(settings, indent=2))
        travel.copy_settings(weights, shards.folder)
    return {"tensors": len(inverse), "bytes": shards.total}
