"""StyleTTS 2: the published second-stage file and its config.yml -> `generators.styletts2.model.StyleTTS2`.

Our modules bear upstream's names (`torch_layers`).
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from converters.readers import ConversionError, Tensor
from converters.rules import Rule, fit
from converters.source import Source, network_of
from converters.torch_files import open_torch
from converters.torch_layers import rules_of
from empatheia_jax.generators.styletts2.config import StyleTTS2Config
from empatheia_jax.generators.styletts2.model import StyleTTS2
from empatheia_jax.weights import slots

NETWORK = StyleTTS2
KEPT = ()
MODEL_TYPES = ()
TRAINING_ONLY = ("text_aligner", "pitch_extractor", "mpd", "msd", "wd")
HARMLESS = (
    rf"({'|'.join(TRAINING_ONLY)})\..*",
    r"bert\.embeddings\.position_ids",  # computed; in files of older transformers
    r"bert\.pooler\.(weight|bias)",  # unused; `check` sees that they are what they should be
    r"diffusion\.unet\..*",  # the denoiser a second time; `check` compares
)
_CHANNEL_NORM = re.compile(r"text_encoder\.cnn\.\d+\.1\.")
_RENAMED = (
    ("bert.layer.", "bert.encoder.albert_layer_groups.0.albert_layers.0."),
    ("bert.embedding_hidden_mapping_in.", "bert.encoder.embedding_hidden_mapping_in."),
    ("diffusion.to_time.linear.", "diffusion.diffusion.net.to_time.0.1."),
    ("diffusion.to_time.weights", "diffusion.diffusion.net.to_time.0.0.weights"),
    ("diffusion.to_features.", "diffusion.diffusion.net.to_features.0."),
    ("diffusion.to_out.", "diffusion.diffusion.net.to_out.1."),
    ("diffusion.", "diffusion.diffusion.net."),
)


def rules(config: StyleTTS2Config, prefix: str = "") -> list[Rule]:
    """The table, a parameter at a time."""

    def renamed(name: str) -> str:
        return next((new + name.removeprefix(old) for old, new in _RENAMED if name.startswith(old)), name)

    return [rule for rule in rules_of(NETWORK, config, renamed) if _spelt(rule.source)]


def _spelt(name: str | tuple[str, ...]) -> bool:
    """The text encoder's norms have gamma and beta, all others weight and bias: the other spelling is no tensor's."""
    if not isinstance(name, str):
        return True
    wrong = ("weight", "bias") if _CHANNEL_NORM.match(name) else ("gamma", "beta")
    return not name.endswith(tuple(f".{leaf}" for leaf in wrong))


def check(config: StyleTTS2Config, tensors: Mapping[str, Tensor]) -> list[str]:
    """What is known and not used must still be what it should be."""
    width, problems = config.plbert_hidden, []
    for name, shape in (("bert.pooler.weight", (width, width)), ("bert.pooler.bias", (width,))):
        if name not in tensors:
            problems.append(f"{name} is missing (unused, but PL-BERT has it)")
        elif tensors[name].shape != shape:
            problems.append(f"{name} has shape {list(tensors[name].shape)}, PL-BERT's is {list(shape)}")
    once, twice = "diffusion.diffusion.net.", "diffusion.unet."
    for name in sorted(tensors):
        twin = twice + name.removeprefix(once) if name.startswith(once) else once + name.removeprefix(twice)
        if not name.startswith((once, twice)):
            continue
        if twin not in tensors:
            problems.append(f"{twin} is missing: the denoiser stands twice in the file, and {name} is there")
        elif name.startswith(once):
            one, other = tensors[name], tensors[twin]
            same = one.shape == other.shape and one.dtype == other.dtype
            if not same:
                problems.append(f"{twin} has shape {list(other.shape)}, {name} {list(one.shape)}: they are one tensor")
            elif one.offset != other.offset and not np.array_equal(one.read(), other.read()):
                problems.append(f"{twin} is not {name}: the denoiser stands twice in the file and must be the same")
    return problems


# Files ----------------------------------------------------------------------------------------------------------------


def config_of(settings: dict) -> StyleTTS2Config:
    """config.yml -> ours.

    Raises:
      ConversionError: something in it that is not there or that ours does otherwise.
    """
    try:
        return StyleTTS2Config.published(settings.get("model_params"))
    except ValueError as error:
        raise ConversionError(f"config.yml: {error}") from error


def open_files(source: Path, config: Path | None = None, plbert: Path | None = None) -> Source:
    """The `.pth`, the config.yml beside it (or `config`), and PL-BERT's own file where the `.pth` has none.

    Raises:
      ConversionError: files that do not fit, with everything that is wrong.
    """
    import yaml

    source = Path(source)
    if source.is_dir():
        found = sorted(source.glob("*.pth"))
        if len(found) != 1:
            raise ConversionError(f"{source}: {len(found)} .pth files in it; name the one to convert")
        source = found[0]
    if not source.is_file():
        raise ConversionError(f"{source}: not there")
    place = Path(config) if config else source.parent / "config.yml"
    if not place.is_file():
        raise ConversionError(f"{place}: not there; sizes and sigma_data are only in the config.yml beside the weights")
    try:
        settings = yaml.safe_load(place.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConversionError(f"{place}: not YAML ({error})") from error
    ours = config_of(settings if isinstance(settings, dict) else {})
    tensors = _without_module(open_torch(source, "net"), source)
    has_bert = any(name.startswith("bert.") for name in tensors)
    if plbert is not None:
        if has_bert:
            raise ConversionError(f"{source} has its own, fine-tuned PL-BERT: leave --plbert out")
        theirs = {f"bert.{name}": tensor for name, tensor in open_torch(Path(plbert), "net").items()}
        theirs = _without_module(theirs, Path(plbert))
        kept = {n.replace("bert.encoder.", "bert.", 1): t for n, t in theirs.items() if n.startswith("bert.encoder.")}
        tensors |= kept
    elif not has_bert:
        raise ConversionError(f"{source}: no PL-BERT in it (a first-stage file?); give its file with --plbert")
    fits = fit(rules(ours), slots(network_of(NETWORK, ours)[1]), tensors, HARMLESS, check(ours, tensors))
    return Source("styletts2", source.parent, settings, ours, tensors, "", fits)


def _without_module(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Names less the "module." that DataParallel puts after the network's."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        network, _, rest = name.partition(".")
        short = f"{network}.{rest.removeprefix('module.')}"
        if short in found:
            raise ConversionError(f"{path}: {short} stands in it twice, with and without 'module.'")
        found[short] = tensor
    return found
