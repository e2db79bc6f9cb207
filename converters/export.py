"""Converted weights -> the transformers directory they came from."""

import json
from pathlib import Path

from safetensors.numpy import load_file

from converters import travel, vicuna
from converters.convert import CARRIED, FAMILIES, OWN_FILES
from converters.readers import ConversionError
from converters.rules import sources
from converters.shards import Shards
from converters.source import abstract
from empatheia_jax.weights import read_arrays, read_facts, slots


def export_weights(weights: Path, output: Path) -> dict[str, int]:
    """A converted folder of any family -> the transformers directory it came from, its tensors bit for bit.

    A tower out of a whole CLIP comes back as a CLIPVisionModel; task heads are not kept.

    Raises:
      ConversionError: no converted weights of a known family; an output that is there already.
    """
    weights = Path(weights)
    facts = read_facts(weights)
    known = [family for family in FAMILIES if family not in OWN_FILES]
    if facts.get("family") not in known:
        raise ConversionError(f"{weights}: weights of family {facts.get('family')!r}; {', '.join(known)} go back")
    table, settings = FAMILIES[facts["family"]], facts["source"]["config"]
    config = table.config_of(settings, None)
    prefix = vicuna.PREFIX if table is vicuna else ""
    back = sources(table.rules(config, prefix), slots(abstract(table, config)))
    settings = settings.get("vision_config", settings) | {"architectures": [table.CLASS]}
    settings["model_type"] = table.MODEL_TYPES[-1] if table is not vicuna else settings["model_type"]
    with Shards(output) as shards:
        for name, array in read_arrays(weights):
            source, transform = back[name]
            shards.add(source, transform.invert(array))
        if (weights / CARRIED).exists():
            for name, array in load_file(weights / CARRIED).items():
                shards.add(f"{prefix}{name}", array)
        (shards.folder / "config.json").write_text(json.dumps(settings, indent=2))
        travel.copy(weights, shards.folder)
    return {"tensors": len(back), "bytes": shards.total}
