"""StyleTTS 2: the published second-stage file and its config.yml -> `generators.styletts2.model.StyleTTS2`.

Our modules have upstream's names (`torch_layers`).
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from converters.rules import Family, Rule, Source
from converters.tensors import ConversionError, Tensor
from converters.torch_files import open_torch
from converters.torch_layers import rules_from_network
from empatheia_jax.generators.styletts2.config import StyleTTS2Config
from empatheia_jax.generators.styletts2.model import StyleTTS2

TRAINING_ONLY = ("text_aligner", "pitch_extractor", "mpd", "msd", "wd")
_CHANNEL_NORM = re.compile(r"text_encoder\.cnn\.\d+\.1\.")
_RENAMED = (  # beginning of our path -> of the tensor's name
    ("bert.layer.", "bert.encoder.albert_layer_groups.0.albert_layers.0."),
    ("bert.embedding_hidden_mapping_in.", "bert.encoder.embedding_hidden_mapping_in."),
    ("diffusion.to_time.linear.", "diffusion.diffusion.net.to_time.0.1."),
    ("diffusion.to_time.weights", "diffusion.diffusion.net.to_time.0.0.weights"),
    ("diffusion.to_features.", "diffusion.diffusion.net.to_features.0."),
    ("diffusion.to_out.", "diffusion.diffusion.net.to_out.1."),
    ("diffusion.", "diffusion.diffusion.net."),
)


def rules(config: StyleTTS2Config, prefix: str = "") -> list[Rule]:
    """Return the table of rules; no name has a prefix."""

    def rename(name: str) -> str:
        return next((new + name.removeprefix(old) for old, new in _RENAMED if name.startswith(old)), name)

    return [rule for rule in rules_from_network(StyleTTS2, config, rename) if _has_known_spelling(rule.source)]


def _has_known_spelling(name: str | tuple[str, ...]) -> bool:
    """Tell whether a norm's source has its spelling: gamma and beta in the text encoder, elsewhere weight and bias."""
    if not isinstance(name, str):
        return True
    wrong = ("weight", "bias") if _CHANNEL_NORM.match(name) else ("gamma", "beta")
    return not name.endswith(tuple(f".{leaf}" for leaf in wrong))


def check(config: StyleTTS2Config, tensors: Mapping[str, Tensor]) -> list[str]:
    """Return problems with the unused tensors: PL-BERT's pooler, and the second copy of the denoiser."""
    width, problems = config.plbert_hidden, []
    for name, shape in (("bert.pooler.weight", (width, width)), ("bert.pooler.bias", (width,))):
        if name not in tensors:
            problems.append(f"{name} is missing (unused, but PL-BERT has it)")
        elif tensors[name].shape != shape:
            problems.append(f"{name} has shape {list(tensors[name].shape)}, PL-BERT's is {list(shape)}")
    used, copied = "diffusion.diffusion.net.", "diffusion.unet."
    for name in sorted(tensors):
        twin = copied + name.removeprefix(used) if name.startswith(used) else used + name.removeprefix(copied)
        if not name.startswith((used, copied)):
            continue
        if twin not in tensors:
            problems.append(f"{twin} is missing: the denoiser stands twice in the file, and {name} is there")
        elif name.startswith(used):
            first, second = tensors[name], tensors[twin]
            if first.shape != second.shape or first.dtype != second.dtype:
                problems.append(
                    f"{twin} has shape {list(second.shape)}, {name} {list(first.shape)}: they are one tensor"
                )
            elif first.offset != second.offset and not np.array_equal(first.read(), second.read()):
                problems.append(f"{twin} is not {name}: the denoiser stands twice in the file and must be the same")
    return problems


FAMILY = Family(
    StyleTTS2,
    rules,
    (
        rf"({'|'.join(TRAINING_ONLY)})\..*",
        r"bert\.embeddings\.position_ids",  # computed; in files of older transformers
        r"bert\.pooler\.(weight|bias)",  # unused; `check` compares their shapes
        r"diffusion\.unet\..*",  # a second copy of the denoiser; `check` compares them
    ),
    check,
)


# Files ----------------------------------------------------------------------------------------------------------------


def parse_config(settings: dict) -> StyleTTS2Config:
    """Convert the contents of config.yml to our config.

    Raises:
      ConversionError: a setting that is missing or that our model does not support.
    """
    try:
        return StyleTTS2Config.published(settings.get("model_params", {}))
    except ValueError as error:
        raise ConversionError(f"config.yml: {error}") from error


def open_files(source: Path, config: Path | None = None, plbert: Path | None = None) -> Source:
    """Open the published files and assign their tensors to parameters.

    Args:
      source: the `.pth`, or a folder with one.
      config: its config.yml; None: the one beside it.
      plbert: PL-BERT's own file, where the `.pth` has no PL-BERT.
    Raises:
      ConversionError: files that do not fit; the message lists everything that is wrong.
    """
    import yaml

    source = Path(source)
    if source.is_dir():
        files = sorted(source.glob("*.pth"))
        if len(files) != 1:
            raise ConversionError(f"{source}: {len(files)} .pth files in it; name the one to convert")
        source = files[0]
    if not source.is_file():
        raise ConversionError(f"{source}: not there")
    config_path = Path(config) if config else source.parent / "config.yml"
    if not config_path.is_file():
        raise ConversionError(
            f"{config_path}: not there; sizes and sigma_data are only in the config.yml beside the weights"
        )
    try:
        settings = yaml.safe_load(config_path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConversionError(f"{config_path}: not YAML ({error})") from error
    model_config = parse_config(settings if isinstance(settings, dict) else {})
    tensors = strip_module(open_torch(source, "net"), source)
    has_bert = any(name.startswith("bert.") for name in tensors)
    if plbert is not None:
        if has_bert:
            raise ConversionError(f"{source} has its own, fine-tuned PL-BERT: leave --plbert out")
        bert = {f"bert.{name}": tensor for name, tensor in open_torch(Path(plbert), "net").items()}
        bert = strip_module(bert, Path(plbert))
        encoder = {n.replace("bert.encoder.", "bert.", 1): t for n, t in bert.items() if n.startswith("bert.encoder.")}
        tensors |= encoder
    elif not has_bert:
        raise ConversionError(f"{source}: no PL-BERT in it (a first-stage file?); give its file with --plbert")
    return Source("styletts2", source.parent, settings, model_config, tensors, "", FAMILY.fit(model_config, tensors))


def strip_module(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Remove the "module." that DataParallel puts after the network's name."""
    stripped: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        network, _, rest = name.partition(".")
        short = f"{network}.{rest.removeprefix('module.')}"
        if short in stripped:
            raise ConversionError(f"{path}: {short} stands in it twice, with and without 'module.'")
        stripped[short] = tensor
    return stripped
