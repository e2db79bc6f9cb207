"""Model FLOPs by hand, the peaks they are measured against, MFU and HFU.

A product of matrices counts 2 a multiply-add; norms, softmax, activations and gathers count nothing, as is usual. The
compiler's own count is of no use in training: it counts the body of a scan once.

Training multiplies the forward pass: 3 where weights are learned, 2 where gradients only pass a frozen weight (LoRA's
base: 4 a weight and token, not 6), 1 where nothing flows back. Attention itself has no weights: 3 where gradients pass.
"""

import dataclasses

from empatheia_jax.config import Config, LatentConfig, LlamaConfig, LoraConfig, ProjectorConfig
from empatheia_jax.data.emotions import AGES, AVATAR_EMOTIONS, GENDERS, TIMBRES
from empatheia_jax.data.schema import Widths
from empatheia_jax.data.tokenizer import SIGNALS

PEAKS = {  # device kind as JAX names it, or how it begins -> dense bfloat16 FLOP/s, from the vendors' data sheets
    "NVIDIA H200": 989e12,
    "NVIDIA H100": 989e12,
    "NVIDIA A100": 312e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA L4": 121e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}
# Bytes/s of a device's memory. NVIDIA: data sheets of H100 SXM (HBM3), H200, A100 80GB SXM, L40S, L4.
# TPU: cloud.google.com/tpu/docs, "System architecture", v4 to v6e. Names that begin alike and differ in memory (H100
# PCIe and NVL, A100 PCIe and 40GB) are not here: no bound is better than a wrong one.
BANDWIDTHS = {
    "NVIDIA H200": 4.8e12,
    "NVIDIA H100 80GB HBM3": 3.35e12,
    "NVIDIA A100-SXM4-80GB": 2.039e12,
    "NVIDIA L40S": 0.864e12,
    "NVIDIA L4": 0.3e12,
    "TPU v4": 1.2e12,
    "TPU v5 lite": 0.82e12,
    "TPU v5": 2.77e12,
    "TPU v6 lite": 1.64e12,
}


def peak(device_kind: str) -> float | None:
    """Dense bfloat16 FLOP/s of a device; None where it is not known (a CPU)."""
    return _of_kind(PEAKS, device_kind)


def bandwidth(device_kind: str) -> float | None:
    """Bytes/s that a device's memory gives at most; None where it is not known (a CPU)."""
    return _of_kind(BANDWIDTHS, device_kind)


def _of_kind(table: dict[str, float], device_kind: str) -> float | None:
    known = [kind for kind in table if device_kind.startswith(kind)]
    return table[max(known, key=len)] if known else None


def mfu(model_flops: float, seconds: float, device_kind: str, devices: int = 1) -> float | None:
    """Model FLOPs utilisation: the share of the devices' peak that the model's own arithmetic takes; None: no peak."""
    most = peak(device_kind)
    return None if most is None else model_flops / (seconds * most * devices)


def hfu(model_flops: float, recomputed: float, seconds: float, device_kind: str, devices: int = 1) -> float | None:
    """Hardware FLOPs utilisation: as `mfu`, with what the backward pass computes again (`recomputed`)."""
    return mfu(model_flops + recomputed, seconds, device_kind, devices)


# Forward passes -------------------------------------------------------------------------------------------------------


def linear(positions: float, width_in: int, width_out: int) -> float:
    """Of one matrix at so many positions."""
    return 2.0 * positions * width_in * width_out


def attention(queries: float, context: float, inner: int) -> float:
    """Of scores and of mixing, all heads together; `context` is how many positions a query reads on average."""
    return 4.0 * queries * context * inner


def projections(llm: LlamaConfig) -> dict[str, tuple[int, int]]:
    """{projection: (width in, width out)} of a decoder layer."""
    inner, outer = llm.heads * llm.head_dim, llm.kv_heads * llm.head_dim
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    shapes = (
        (llm.width, inner),
        (llm.width, outer),
        (llm.width, outer),
        (inner, llm.width),
        (llm.width, llm.mlp_width),
        (llm.width, llm.mlp_width),
        (llm.mlp_width, llm.width),
    )
    return dict(zip(names, shapes, strict=True))


def llama_weights(llm: LlamaConfig, tokens: float) -> float:
    """Of all decoder layers' projections."""
    return llm.layers * sum(linear(tokens, *shape) for shape in projections(llm).values())


def llama_attention(llm: LlamaConfig, tokens: float, context: float) -> float:
    """Of all decoder layers' attention; in an Example of n tokens the mean `context` is (n + 1) / 2."""
    return llm.layers * attention(tokens, context, llm.heads * llm.head_dim)


def adapters(llm: LlamaConfig, lora: LoraConfig, tokens: float) -> float:
    """Of all LoRA pairs."""
    shapes = projections(llm)
    return llm.layers * sum(linear(tokens, lora.rank, sum(shapes[target])) for target in lora.targets)


def lm_head(llm: LlamaConfig, positions: float) -> float:
    """Of the logits at so many positions."""
    return linear(positions, llm.width, llm.vocab_size)


def feed_forward(positions: float, width_in: int, mlp_width: int, width_out: int) -> float:
    """Of two linear layers."""
    return linear(positions, width_in, mlp_width) + linear(positions, mlp_width, width_out)


def block(queries: float, memory: float, context: float, width: int) -> float:
    """Of multi-head attention with its four projections: `queries` positions read `context` of `memory` each."""
    return 2 * linear(queries, width, width) + 2 * linear(memory, width, width) + attention(queries, context, width)


def hourglass(config: LatentConfig, inputs: float, queries: float) -> float:
    """Of one VAE block of Fig. 4 over `inputs` positions, read by `queries`."""
    width, mlp = config.width, config.mlp_width
    encoder = block(inputs, inputs, inputs, width) + feed_forward(inputs, width, mlp, width)
    decoder = (
        block(queries, queries, queries, width)
        + block(queries, inputs, inputs, width)
        + feed_forward(queries, width, mlp, width)
    )
    latent = 2 * linear(inputs, width, width) + feed_forward(inputs, width, mlp, width)
    return config.encoder_layers * encoder + latent + config.decoder_layers * decoder


def content_synchronizer(
    config: LatentConfig, llm_width: int, widths: Widths, response: float, phonemes: float, frames: float
) -> float:
    """Of one Example's content: `response` states, `phonemes` and `frames` queries."""
    read = 2 * feed_forward(response, llm_width, config.mlp_width, config.width)
    out = linear(phonemes, config.width, widths.content_speech) + linear(frames, config.width, widths.content_video)
    queries = linear(frames, 8, config.width)
    return read + out + queries + hourglass(config, response, phonemes) + hourglass(config, response, frames)


def style_disentangler(config: LatentConfig, llm_width: int, widths: Widths) -> float:
    """Of one Example's style and labels: 16 states a modality, one query each, two shared blocks."""
    width = config.width
    read = 2 * feed_forward(SIGNALS, llm_width, config.mlp_width, width)
    blocks = 2 * 2 * hourglass(config, SIGNALS, 1)
    styles = linear(1, 2 * width, widths.style_speech + widths.style_video) + 2 * linear(1, 2 * width, width)
    classes = len(AVATAR_EMOTIONS) + len(AGES) + len(GENDERS) + len(TIMBRES)
    return read + blocks + styles + linear(1, width, classes)


def projector(config: ProjectorConfig, shape: tuple[int, int], llm_width: int) -> float:
    """Of one modality of one utterance; `shape` is the encoder's (N, D)."""
    count, features = shape
    width, tokens = config.width, config.tokens
    pooled = block(tokens, count, count, width) + feed_forward(tokens, width, 2 * width, width)
    return linear(count, features, width) + pooled + linear(tokens, width, llm_width)


def transformer(config, positions: float) -> float:
    """Of an encoder's layers (`encoders.transformer.TransformerConfig`) over one sequence."""
    layer = block(positions, positions, positions, config.width)
    return config.layers * (layer + feed_forward(positions, config.width, config.mlp_width, config.width))


def hubert(config, samples: int) -> float:
    """Of one recording of `samples` at 16 kHz (`encoders.hubert.HubertConfig`)."""
    total, frames, before = 0.0, samples, 1
    for kernel, stride, width in zip(config.conv_kernel, config.conv_stride, config.conv_dim, strict=True):
        frames = (frames - kernel) // stride + 1
        total += linear(frames, kernel * before, width)
        before = width
    window = config.num_conv_pos_embeddings * config.width // config.num_conv_pos_embedding_groups
    total += linear(frames, before, config.width) + linear(frames, window, config.width)
    return total + transformer(config, frames)


def clip(config, pictures: int) -> float:
    """Of so many pictures (`encoders.clip.ClipVisionConfig`)."""
    patches = linear(config.patches, 3 * config.patch_size**2, config.width)
    return pictures * (patches + transformer(config, config.patches + 1))


# A training step ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Load:
    """What a step works on, summed over its Examples."""

    tokens: float
    context: float  # mean number of positions that a token reads
    targets: float  # tokens under L_emp
    examples: float
    slots: tuple[float, float]  # utterances heard, utterances seen
    response: float = 0.0  # mean response tokens, phonemes and frames of an Example
    phonemes: float = 0.0
    frames: float = 0.0


def training_step(config: Config, stage, widths: Widths | None, load: Load) -> float:
    """Of forward and backward of a stage (`training.stages.Stage`); the optimizer and what is recomputed left out."""
    llm, trains = config.llm, stage.trains
    flows = bool({"base", "lora", "rows", "projectors"} & set(trains))  # gradients pass the LLM
    total = 0.0
    if not stage.cached:
        weights = 3 if "base" in trains else 2 if flows else 1
        total += weights * llama_weights(llm, load.tokens)
        total += (3 if flows else 1) * llama_attention(llm, load.tokens, load.context)
        total += (3 if "lora" in trains else 2 if flows else 1) * adapters(llm, config.lora, load.tokens)
    if "emp" in stage.weights:
        total += (3 if "base" in trains else 2) * lm_head(llm, load.targets)
    if stage.prompt != "text":
        for count, shape in zip(load.slots, (widths.audio, widths.video), strict=True):
            total += 3 * count * projector(config.projector, shape, llm.width)
    if stage.content:
        parts = load.response, load.phonemes, load.frames
        total += 3 * load.examples * content_synchronizer(config.latents, llm.width, widths, *parts)
    if stage.style:
        total += 3 * load.examples * style_disentangler(config.latents, llm.width, widths)
    return total


def recomputed(config: Config, stage, load: Load) -> float:
    """What the backward pass computes again of the LLM under `llm.remat`: for `hfu`."""
    if stage.cached or config.llm.remat == "none" or not {"base", "lora", "rows", "projectors"} & set(stage.trains):
        return 0.0
    llm = config.llm
    if llm.remat == "lora":
        return 0.0  # the residuals that are kept leave no product to be done twice
    if llm.remat == "attention":
        return 2 * llm.layers * linear(load.tokens, llm.width, llm.mlp_width)  # gate and up
    again = llama_weights(llm, load.tokens) + llama_attention(llm, load.tokens, load.context)
    return again + adapters(llm, config.lora, load.tokens)
