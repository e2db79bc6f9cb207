"""StyleTTS 2: the published second-stage file and its config.yml -> `generators.styletts2.model.StyleTTS2`.

Our modules bear upstream's names, so the table is made from the model: a parameter's path is its tensor's name, and its
kind (`layout`) and the spelling found say how it is laid out. Weight and spectral norm are folded in.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flax import nnx

from converters.readers import ConversionError, Tensor
from converters.rules import CONV1D, CONV2D, SAME, Rule, Transform, fit, linear
from converters.source import Source, network_of
from converters.torch_files import open_torch
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
_RENAMED = (
    ("bert.layer.", "bert.encoder.albert_layer_groups.0.albert_layers.0."),
    ("bert.embedding_hidden_mapping_in.", "bert.encoder.embedding_hidden_mapping_in."),
    ("diffusion.to_time.linear.", "diffusion.diffusion.net.to_time.0.1."),
    ("diffusion.to_time.weights", "diffusion.diffusion.net.to_time.0.0.weights"),
    ("diffusion.to_features.", "diffusion.diffusion.net.to_features.0."),
    ("diffusion.to_out.", "diffusion.diffusion.net.to_out.1."),
    ("diffusion.", "diffusion.diffusion.net."),
)

# Spellings ------------------------------------------------------------------------------------------------------------


def _transposed(shape):  # torch's ConvTranspose1d [in, out, k]
    return shape[1], shape[2], shape[0]


_LAYOUTS: dict[str, Transform] = {
    "linear": linear(),
    "conv": CONV1D,
    "conv2d": CONV2D,
    "conv_transpose": Transform(
        lambda shape: [_transposed(shape)], lambda arrays, shape: arrays[0][..., ::-1].transpose(2, 0, 1)
    ),
    "depthwise_transpose": Transform(
        lambda shape: [(shape[2], 1, shape[0])], lambda arrays, shape: arrays[0][..., ::-1].transpose(2, 1, 0)
    ),
}


def _weight_norm(layout: Transform) -> Transform:
    """(g, v): each slice of v's first axis scaled to length g, folded in float64."""

    def sources(shape):
        (plain,) = layout.sources(shape)
        return [(plain[0], *(1,) * (len(plain) - 1)), plain]

    def apply(arrays, shape):
        gain, direction = (array.astype(np.float64) for array in arrays)
        norm = np.sqrt(np.sum(np.square(direction), axis=tuple(range(1, direction.ndim)), keepdims=True))
        return layout.apply([(gain * direction / norm).astype(np.float32)], shape)

    return Transform(sources, apply)


def _spectral_norm(layout: Transform) -> Transform:
    """(weight, u, v): the weight over u W v with the stored vectors, as torch does in evaluation."""

    def sources(shape):
        (plain,) = layout.sources(shape)
        return [plain, (plain[0],), (int(np.prod(plain[1:])),)]

    def apply(arrays, shape):
        weight, u, v = (array.astype(np.float64) for array in arrays)
        sigma = u @ weight.reshape(weight.shape[0], -1) @ v
        return layout.apply([(weight / sigma).astype(np.float32)], shape)

    return Transform(sources, apply)


_SUM = Transform(
    lambda shape: [shape, shape], lambda arrays, shape: arrays[0].astype(np.float32) + arrays[1].astype(np.float32)
)
_ALPHA = Transform(lambda shape: [(1, *shape, 1)], lambda arrays, shape: arrays[0].reshape(shape))


def _kernel(name: str, target: str, layout: Transform) -> list[Rule]:
    new = f"{name}.parametrizations.weight"
    return [
        Rule(f"{name}.weight", target, layout),
        Rule((f"{name}.weight_g", f"{name}.weight_v"), target, _weight_norm(layout)),
        Rule((f"{new}.original0", f"{new}.original1"), target, _weight_norm(layout)),
        Rule((f"{name}.weight_orig", f"{name}.weight_u", f"{name}.weight_v"), target, _spectral_norm(layout)),
        Rule((f"{new}.original", f"{new}.0._u", f"{new}.0._v"), target, _spectral_norm(layout)),
    ]


def _lstm(name: str, target: str, leaf: str) -> list[Rule]:
    name, _, direction = name.rpartition(".")
    end = "_l0_reverse" if direction == "backward" else "_l0"
    if leaf == "bias":
        return [Rule((f"{name}.bias_ih{end}", f"{name}.bias_hh{end}"), target, _SUM)]
    return [Rule(f"{name}.weight_{'ih' if leaf == 'input_kernel' else 'hh'}{end}", target, linear())]


def rules(config: StyleTTS2Config, prefix: str = "") -> list[Rule]:
    """The table, a parameter at a time."""
    table: list[Rule] = []
    for path, variable in nnx.to_flat_state(network_of(NETWORK, config)[1]):
        target, leaf = "/".join(map(str, path)), str(path[-1])
        name = ".".join(map(str, path))
        name = next((new + name.removeprefix(old) for old, new in _RENAMED if name.startswith(old)), name)
        module = name.rpartition(".")[0]
        layout = variable.get_metadata().get("layout")
        if path[-2] in ("forward", "backward"):
            table += _lstm(module, target, leaf)
        elif layout is not None:
            table += _kernel(module, target, _LAYOUTS["conv2d" if len(variable.shape) == 4 else layout])
        elif leaf == "table":
            table.append(Rule(f"{module}.weight", target))
        elif leaf == "scale":
            table += [Rule(f"{module}.weight", target), Rule(f"{module}.gamma", target)]
        elif leaf == "bias":
            table += [Rule(f"{module}.bias", target), Rule(f"{module}.beta", target)]
        elif any(str(part).startswith("alpha") for part in path):
            table.append(Rule(name, target, _ALPHA))
        else:
            table.append(Rule(name, target, SAME))
    return table


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
    found = settings.get("model_params")
    try:
        decoder, diffusion = found["decoder"], found["diffusion"]
        transformer = diffusion["transformer"]
        names = ("multispeaker", "dim_in", "hidden_dim", "max_conv_dim", "n_layer", "n_mels", "n_token", "max_dur")
        vocoder = ("upsample_rates", "upsample_kernel_sizes", "resblock_kernel_sizes", "upsample_initial_channel")
        fields = {name: found[name] for name in (*names, "style_dim")}
        fields |= {name: _tuple(decoder[name]) for name in (*vocoder, "resblock_dilation_sizes")}
        fields |= {name: decoder[name] for name in ("gen_istft_n_fft", "gen_istft_hop_size") if name in decoder}
        return StyleTTS2Config(
            **fields, decoder_type=decoder["type"], diffusion_layers=transformer["num_layers"],
            diffusion_heads=transformer["num_heads"], diffusion_head_features=transformer["head_features"],
            diffusion_multiplier=transformer["multiplier"], sigma_data=float(diffusion["dist"]["sigma_data"]),
        )  # fmt: skip
    except (KeyError, TypeError) as error:
        raise ConversionError(f"config.yml: no {error} in its model_params") from error


def _tuple(value):
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


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
