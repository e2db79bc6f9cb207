"""Model FLOPs from formulas, the peaks that they are compared with, MFU and HFU.

A matrix product counts 2 FLOPs per multiply-add; norms, softmax, activations and gathers count nothing, as is usual.
The compiler's own count cannot be used for training: it counts the body of a scan once.

Training multiplies the FLOPs of the forward pass: by 3 where weights are learned, by 2 where gradients only pass
through a frozen weight (LoRA's base: 4 per weight and token, not 6), by 1 where no gradient flows. Attention itself has
no weights: by 3 where gradients pass.
"""

import dataclasses

from empatheia_jax.config import Config, LatentConfig, LlamaConfig, LoraConfig, ProjectorConfig
from empatheia_jax.data.emotions import AGES, AVATAR_EMOTIONS, GENDERS, TIMBRES
from empatheia_jax.data.prompts.tokenizer import SIGNALS
from empatheia_jax.data.schema import Widths
from empatheia_jax.training.stages import Stage

PEAKS = {  # JAX's name of a device kind, or a prefix of it -> dense bfloat16 FLOP/s by the vendors' data sheets
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
# TPU: cloud.google.com/tpu/docs, "System architecture", v4 to v6e. Devices whose names have the same prefix but whose
# memory differs (H100 PCIe and NVL, A100 PCIe and 40GB) are left out: no bound is better than a wrong one.
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


def peak_flops(device_kind: str) -> float | None:
    """Return the dense bfloat16 FLOP/s of a device; None where they are not known (a CPU)."""
    return _look_up(PEAKS, device_kind)


def memory_bandwidth(device_kind: str) -> float | None:
    """Return the bytes/s of a device's memory; None where they are not known (a CPU)."""
    return _look_up(BANDWIDTHS, device_kind)


def _look_up(table: dict[str, float], device_kind: str) -> float | None:
    prefixes = [kind for kind in table if device_kind.startswith(kind)]
    return table[max(prefixes, key=len)] if prefixes else None


def mfu(model_flops: float, seconds: float, device_kind: str, devices: int = 1) -> float | None:
    """Return the model FLOPs utilisation: model FLOPs over what the devices could do at their peak.

    Args:
      model_flops: model FLOPs of the work, all devices together.
      seconds: time that the work took.
      device_kind: JAX's name of the device.
      devices: number of devices.
    Returns:
      The share, 0 to 1; None where the device's peak is not known.
    """
    peak = peak_flops(device_kind)
    return None if peak is None else model_flops / (seconds * peak * devices)


def hfu(model_flops: float, recomputed: float, seconds: float, device_kind: str, *, devices: int = 1) -> float | None:
    """Return the hardware FLOPs utilisation: `mfu` that counts what the backward pass recomputes too."""
    return mfu(model_flops + recomputed, seconds, device_kind, devices)


# Forward passes -------------------------------------------------------------------------------------------------------


def linear(positions: float, width_in: int, width_out: int) -> float:
    """Return the FLOPs of a linear layer at `positions`."""
    return 2.0 * positions * width_in * width_out


def attention(queries: float, context: float, inner: int) -> float:
    """Return the FLOPs of attention's scores and weighted sum, without projections.

    Args:
      queries: number of queries.
      context: mean number of positions that a query reads.
      inner: width of all heads together.
    """
    return 4.0 * queries * context * inner


def projections(llm: LlamaConfig) -> dict[str, tuple[int, int]]:
    """Return {projection: (input width, output width)} of a decoder layer."""
    query_width, key_width = llm.heads * llm.head_dim, llm.kv_heads * llm.head_dim
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    shapes = (
        (llm.width, query_width),
        (llm.width, key_width),
        (llm.width, key_width),
        (query_width, llm.width),
        (llm.width, llm.mlp_width),
        (llm.width, llm.mlp_width),
        (llm.mlp_width, llm.width),
    )
    return dict(zip(names, shapes, strict=True))


def llama_projections(llm: LlamaConfig, tokens: float) -> float:
    """Return the FLOPs of the projections of all decoder layers."""
    return llm.layers * sum(linear(tokens, *shape) for shape in projections(llm).values())


def llama_attention(llm: LlamaConfig, tokens: float, context: float) -> float:
    """Return the FLOPs of the attention of all decoder layers; in an Example of n tokens `context` is (n + 1) / 2."""
    return llm.layers * attention(tokens, context, llm.heads * llm.head_dim)


def adapters(llm: LlamaConfig, lora: LoraConfig, tokens: float) -> float:
    """Return the FLOPs of all LoRA adapters."""
    shapes = projections(llm)
    return llm.layers * sum(linear(tokens, lora.rank, sum(shapes[target])) for target in lora.targets)


def lm_head(llm: LlamaConfig, positions: float) -> float:
    """Return the FLOPs of the logits at `positions`."""
    return linear(positions, llm.width, llm.vocab_size)


def feed_forward(positions: float, width_in: int, mlp_width: int, width_out: int) -> float:
    """Return the FLOPs of a feed-forward network of two linear layers."""
    return linear(positions, width_in, mlp_width) + linear(positions, mlp_width, width_out)


def attention_block(queries: float, memory: float, context: float, width: int) -> float:
    """Return the FLOPs of multi-head attention with its four projections.

    Args:
      queries: number of queries.
      memory: positions that keys and values are computed for.
      context: mean number of positions that a query reads.
      width: width of the layer.
    """
    return 2 * linear(queries, width, width) + 2 * linear(memory, width, width) + attention(queries, context, width)


def vae_block(config: LatentConfig, inputs: float, queries: float) -> float:
    """Return the FLOPs of a VAE block (Fig. 4) that encodes `inputs` positions and decodes `queries`."""
    width, mlp = config.width, config.mlp_width
    encoder = attention_block(inputs, inputs, inputs, width) + feed_forward(inputs, width, mlp, width)
    decoder = (
        attention_block(queries, queries, queries, width)
        + attention_block(queries, inputs, inputs, width)
        + feed_forward(queries, width, mlp, width)
    )
    latent = 2 * linear(inputs, width, width) + feed_forward(inputs, width, mlp, width)
    return config.encoder_layers * encoder + latent + config.decoder_layers * decoder


def content_synchronizer(
    config: LatentConfig, llm_width: int, widths: Widths, *, response: float, phonemes: float, frames: float
) -> float:
    """Return the FLOPs of the content synchronizer for one Example.

    Args:
      config: settings of the latents.
      llm_width: width of the LLM's states.
      widths: widths of the features.
      response: number of response tokens.
      phonemes: number of phonemes.
      frames: number of video frames.
    """
    inputs = 2 * feed_forward(response, llm_width, config.mlp_width, config.width)
    outputs = linear(phonemes, config.width, widths.content_speech) + linear(frames, config.width, widths.content_video)
    queries = linear(frames, 8, config.width)
    return inputs + outputs + queries + vae_block(config, response, phonemes) + vae_block(config, response, frames)


def style_disentangler(config: LatentConfig, llm_width: int, widths: Widths) -> float:
    """Return the FLOPs of the style disentangler for one Example: two shared blocks, 16 states per modality."""
    width = config.width
    inputs = 2 * feed_forward(SIGNALS, llm_width, config.mlp_width, width)
    blocks = 2 * 2 * vae_block(config, SIGNALS, 1)
    styles = linear(1, 2 * width, widths.style_speech + widths.style_video) + 2 * linear(1, 2 * width, width)
    classes = len(AVATAR_EMOTIONS) + len(AGES) + len(GENDERS) + len(TIMBRES)
    return inputs + blocks + styles + linear(1, width, classes)


def projector(config: ProjectorConfig, shape: tuple[int, int], llm_width: int) -> float:
    """Return the FLOPs of pooling one modality of one utterance, whose features have `shape` (N, D)."""
    count, feature_width = shape
    width, tokens = config.width, config.tokens
    pooled = attention_block(tokens, count, count, width) + feed_forward(tokens, width, 2 * width, width)
    return linear(count, feature_width, width) + pooled + linear(tokens, width, llm_width)


def transformer(config, positions: float) -> float:
    """Return the FLOPs of an encoder's layers (`encoders.transformer.TransformerConfig`) over one sequence."""
    layer = attention_block(positions, positions, positions, config.width)
    return config.layers * (layer + feed_forward(positions, config.width, config.mlp_width, config.width))


def hubert(config, samples: int) -> float:
    """Return the FLOPs of HuBERT (`encoders.hubert.HubertConfig`) on one recording of `samples` at 16 kHz."""
    total, frames, width_in = 0.0, samples, 1
    for kernel, stride, width in zip(config.conv_kernel, config.conv_stride, config.conv_dim, strict=True):
        frames = (frames - kernel) // stride + 1
        total += linear(frames, kernel * width_in, width)
        width_in = width
    window = config.num_conv_pos_embeddings * config.width // config.num_conv_pos_embedding_groups
    total += linear(frames, width_in, config.width) + linear(frames, window, config.width)
    return total + transformer(config, frames)


def clip(config, pictures: int) -> float:
    """Return the FLOPs of CLIP (`encoders.clip.ClipVisionConfig`) on so many pictures."""
    patches = linear(config.patches, 3 * config.patch_size**2, config.width)
    return pictures * (patches + transformer(config, config.patches + 1))


# A training step ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Load:
    """The amount of data in a step, summed over its Examples."""

    tokens: float  # of the prompts and answers, without padding
    context: float  # mean number of positions that a token reads
    targets: float  # tokens under L_emp
    examples: float
    slots: tuple[float, float]  # slots for audio, slots for video
    response: float = 0.0  # mean number of response tokens of an Example
    phonemes: float = 0.0  # mean number of phonemes of an Example
    frames: float = 0.0  # mean number of video frames of an Example


def training_step(config: Config, stage: Stage, widths: Widths | None, load: Load) -> float:
    """Return the model FLOPs of a training step.

    The optimizer, and what the backward pass recomputes, are left out.

    Args:
      config: settings of the run.
      stage: the stage.
      widths: widths of the features; None for a text-only model.
      load: amount of data in the step.
    """
    llm, backward = config.llm, stage.backprops_through_llm
    total = 0.0
    if not stage.cached:
        passes = 3 if stage.trains_base else 2 if backward else 1
        total += passes * llama_projections(llm, load.tokens)
        total += (3 if backward else 1) * llama_attention(llm, load.tokens, load.context)
        total += (3 if "lora" in stage.trains else 2 if backward else 1) * adapters(llm, config.lora, load.tokens)
    if "emp" in stage.weights:
        total += (3 if stage.trains_base else 2) * lm_head(llm, load.targets)
    if widths is None:
        return total
    if stage.prompt_kind != "text":
        for count, shape in zip(load.slots, (widths.audio, widths.video), strict=True):
            total += 3 * count * projector(config.projector, shape, llm.width)
    if stage.has_content:
        lengths = {"response": load.response, "phonemes": load.phonemes, "frames": load.frames}
        total += 3 * load.examples * content_synchronizer(config.latents, llm.width, widths, **lengths)
    if stage.has_style:
        total += 3 * load.examples * style_disentangler(config.latents, llm.width, widths)
    return total


def recomputed(config: Config, stage: Stage, load: Load) -> float:
    """Return the FLOPs of the LLM that the backward pass computes again under `llm.remat`, for `hfu`."""
    llm = config.llm
    if stage.cached or not stage.backprops_through_llm or llm.remat in ("none", "lora"):
        return 0.0  # with "lora" the stored residuals spare every matrix product
    if llm.remat == "attention":
        return 2 * llm.layers * linear(load.tokens, llm.width, llm.mlp_width)  # gate and up
    forward = llama_projections(llm, load.tokens) + llama_attention(llm, load.tokens, load.context)
    return forward + adapters(llm, config.lora, load.tokens)
