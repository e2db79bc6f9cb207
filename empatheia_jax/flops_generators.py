"""FLOPs of the neural generators by hand: StyleTTS 2 speaking an utterance, DreamTalk moving and drawing a clip.

As in `flops`: a product of matrices counts 2 a multiply-add. A convolution is a product with every window, the zeros
beyond the edges included. Norms, activations, gathers, means, interpolation (a warped pixel's four taps) and the
inverse Fourier transform count nothing; the maps from a style to a norm's scale and shift are products and count.
What a program pads to a bucket or a chunk, or computes again for a later stage, is no work of the model's. Inference
only: nothing flows back.
"""

import math

from empatheia_jax.flops import attention, block, feed_forward, linear
from empatheia_jax.generators.dreamtalk.config import DreamTalkConfig, RendererConfig
from empatheia_jax.generators.dreamtalk.content_encoder import ROWS_A_FRAME
from empatheia_jax.generators.styletts2.config import StyleTTS2Config
from empatheia_jax.generators.styletts2.decoder import HIDDEN, RESIDUAL
from empatheia_jax.generators.styletts2.source import HARMONICS
from empatheia_jax.generators.styletts2.stages import SAMPLES_A_FRAME


def convolution(positions: float, window: int, width_in: int, width_out: int) -> float:
    """Of one that gives so many `positions`, each of a `window` of taps.

    Of a transposed one `positions` are those of its input: the zeros that stretch it are not read.
    """
    return linear(positions, window * width_in, width_out)


# StyleTTS 2 -----------------------------------------------------------------------------------------------------------


def lstm(positions: float, width_in: int, width_out: int) -> float:
    """Of both directions, each of half the width: gates from the input and from the state before."""
    half = width_out // 2
    return 2 * (linear(positions, width_in, 4 * half) + linear(positions, half, 4 * half))


def style_norms(style: int, *widths: int) -> float:
    """Of the scales and shifts that a style gives norms of such widths: once an utterance."""
    return linear(1, style, 2 * sum(widths))


def text_encoder(config: StyleTTS2Config, phonemes: float) -> float:
    """Of h_text: convolutions and a BiLSTM."""
    width = config.hidden_dim
    return config.n_layer * convolution(phonemes, 5, width, width) + lstm(phonemes, width, width)


def plbert(config: StyleTTS2Config, phonemes: float) -> float:
    """Of h_bert: one layer, `plbert_layers` times."""
    width = config.plbert_hidden
    layer = block(phonemes, phonemes, phonemes, width) + feed_forward(phonemes, width, config.plbert_mlp, width)
    return linear(phonemes, config.plbert_embedding, width) + config.plbert_layers * layer


def style_evaluations(steps: int, guided: bool = False) -> int:
    """How often the sampler of `steps` noise levels runs the denoiser: twice an update, with guidance without words
    too."""
    return 2 * (steps - 1) * (2 if guided else 1)


def style_denoiser(config: StyleTTS2Config, phonemes: float) -> float:
    """Of one evaluation for an utterance."""
    style = 2 * config.style_dim
    width, middle = style + config.plbert_hidden, config.diffusion_heads * config.diffusion_head_features
    layer = linear(phonemes, width, 3 * middle) + attention(phonemes, phonemes, middle)
    layer += linear(phonemes, middle, width)
    layer += feed_forward(phonemes, width, config.diffusion_multiplier * width, width)
    mapping = linear(1, 1 + style, width) + 2 * linear(1, width, width)
    if config.multispeaker:  # the reference's style steers both norms of a layer, and is mapped with the noise level
        layer += style_norms(style, width, width)
        mapping += linear(1, style, width)
    return mapping + config.diffusion_layers * layer + linear(1, width, style)


def duration_encoder(config: StyleTTS2Config, phonemes: float) -> float:
    """Of what durations, F0 and energy are read from: h_bert projected, BiLSTMs and steered norms."""
    width, style = config.hidden_dim, config.style_dim
    layer = lstm(phonemes, width + style, width) + style_norms(style, width)
    return linear(phonemes, config.plbert_hidden, width) + config.n_layer * layer


def durations(config: StyleTTS2Config, phonemes: float) -> float:
    """Of the durations from what the duration encoder gave."""
    width = config.hidden_dim
    return lstm(phonemes, width + config.style_dim, width) + linear(phonemes, width, config.max_dur)


def steered_block(positions: float, width_in: int, width_out: int, style: int, upsample: bool = False) -> float:
    """Of an AdainResBlk1d over `positions`; with `upsample` all its convolutions are at twice as many."""
    total = linear(positions, 3, width_in) if upsample else 0.0  # each channel stretched by itself
    positions *= 2 if upsample else 1
    total += convolution(positions, 3, width_in, width_out) + convolution(positions, 3, width_out, width_out)
    total += linear(positions, width_in, width_out) if width_in != width_out else 0.0
    return total + style_norms(style, width_in, width_out)


def curves(config: StyleTTS2Config, frames: float) -> float:
    """Of F0 and energy, two values a frame of 25 ms each."""
    width, style = config.hidden_dim, config.style_dim
    half = width // 2
    each = (
        steered_block(frames, width, width, style)
        + steered_block(frames, width, half, style, upsample=True)
        + steered_block(2 * frames, half, half, style)
        + linear(2 * frames, half, 1)
    )
    return lstm(frames, width + style, width) + 2 * each


def decoder(config: StyleTTS2Config, frames: float) -> float:
    """Of what the vocoder reads, from text features, F0 and energy."""
    width, style = config.hidden_dim, config.style_dim
    beside = HIDDEN + RESIDUAL + 2
    blocks = (
        steered_block(frames, width + 2, HIDDEN, style)
        + 3 * steered_block(frames, beside, HIDDEN, style)
        + steered_block(frames, beside, width, style, upsample=True)
    )
    return blocks + linear(frames, width, RESIDUAL) + 2 * convolution(frames, 3, 1, 1)


def vocoder(config: StyleTTS2Config, frames: float) -> float:
    """Of HiFi-GAN or iSTFTNet over `frames` of 25 ms, two positions each, and of the harmonic source."""
    spectral = config.decoder_type == "istftnet"
    heard, said = (config.gen_istft_n_fft + 2,) * 2 if spectral else (1, 1)  # channels of the source, of the output
    positions, style = 2 * frames, config.style_dim
    widths = [config.upsample_initial_channel // 2**power for power in range(len(config.upsample_rates) + 1)]
    samples = SAMPLES_A_FRAME * frames
    total = linear(samples, HARMONICS, 1)
    if spectral:  # its Fourier transform is two products; iSTFT's is a fast one
        size = config.gen_istft_n_fft
        total += 2 * linear(samples / config.gen_istft_hop_size, size, size // 2 + 1)
    kinds = list(zip(config.resblock_kernel_sizes, map(len, config.resblock_dilation_sizes), strict=True))
    for stage, (rate, window) in enumerate(zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True)):
        before, width = widths[stage : stage + 2]
        total += convolution(positions, window, before, width)
        positions *= rate
        later = math.prod(config.upsample_rates[stage + 1 :])
        last = stage + 1 == len(config.upsample_rates)
        total += convolution(positions, 1 if last else 2 * later, heard, width)
        for kernel, dilations in [(11 if last else 7, 3), *kinds]:  # the source's block, then the stage's
            each = convolution(positions, kernel, width, width) + style_norms(style, width)
            total += 2 * dilations * each
    return total + convolution(positions, 7, widths[-1], said)


def style_encoder(config: StyleTTS2Config, mel_frames: float) -> float:
    """Of one of the two that read a reference log-mel of so many frames of 12.5 ms."""
    widths = [min(config.dim_in * 2**power, config.max_conv_dim) for power in range(5)]
    bands, length = config.n_mels, mel_frames
    total = convolution(bands * length, 9, 1, widths[0])
    for before, width in zip(widths, widths[1:], strict=False):
        whole, quarter = bands * length, bands / 2 * length / 2
        total += convolution(whole, 9, before, before) + linear(quarter, 9, before)  # that which halves is depthwise
        total += convolution(quarter, 9, before, width)
        total += linear(whole, before, width) if before != width else 0.0
        bands, length = bands / 2, length / 2
    total += convolution((bands - 4) * (length - 4), 25, widths[-1], widths[-1])
    return total + linear(1, widths[-1], config.style_dim)


def speech_parts(
    config: StyleTTS2Config, phonemes: float, frames: float, steps: int, guided: bool = False, mel_frames: float = 0.0
) -> dict[str, float]:
    """{part: FLOPs} of speaking one utterance.

    Args:
      phonemes: symbols, leading 0 included. frames: of 25 ms, as the decoder counts them.
      steps: noise levels of style diffusion. guided: by the words, at an embedding scale other than 1.
      mel_frames: of a reference recording whose style is read first, 12.5 ms each; 0: its style is known, or not used.
    """
    return {
        "style_encoders": 2 * style_encoder(config, mel_frames) if mel_frames else 0.0,
        "text_encoder": text_encoder(config, phonemes),
        "plbert": plbert(config, phonemes),
        "diffusion": style_evaluations(steps, guided) * style_denoiser(config, phonemes),
        "durations": duration_encoder(config, phonemes) + durations(config, phonemes),
        "curves": curves(config, frames),
        "decoder": decoder(config, frames),
        "vocoder": vocoder(config, frames),
    }


def speech(
    config: StyleTTS2Config, phonemes: float, frames: float, steps: int, guided: bool = False, mel_frames: float = 0.0
) -> float:
    """Of all `speech_parts`."""
    return sum(speech_parts(config, phonemes, frames, steps, guided, mel_frames).values())


# DreamTalk ------------------------------------------------------------------------------------------------------------


def encoder_layers(config: DreamTalkConfig, positions: float) -> float:
    """Of the transformer that content and style are encoded by, over one sequence."""
    layer = block(positions, positions, positions, config.width)
    return config.layers * (layer + feed_forward(positions, config.width, config.mlp_width, config.width))


def content_encoder(config: DreamTalkConfig, frames: float) -> float:
    """Of what `frames` of 40 ms hear: every row of the speech encoder projected once, every window by itself."""
    projected = linear(ROWS_A_FRAME * frames, config.audio_dim, config.width)
    return projected + frames * encoder_layers(config, config.window)


def style_clip(config: DreamTalkConfig) -> float:
    """Of the code of a style clip, which is always as long as `style_frames`: a shorter one is filled with zeros."""
    length, width = config.style_frames, config.width
    pooling = linear(length, width, width) + linear(length, width, 1) + linear(1, length, width)
    return linear(length, config.expression_dim, width) + encoder_layers(config, length) + pooling


def motion_denoiser(config: DreamTalkConfig, frames: float) -> float:
    """Of one evaluation: content and noisy expression fused, then two decoders over every frame's window."""
    width, window, lower = config.width, config.window, len(config.lower_face)
    fused = linear(window, width + config.expression_dim, width) + 2 * linear(window, width, width)
    layer = 2 * block(window, window, window, width) + feed_forward(window, width, config.mlp_width, width)
    tail = linear(1, width, config.tail_width) + linear(1, config.tail_width, config.tail_width)
    halves = sum(
        config.layers * layer + tail + linear(1, config.tail_width, coefficients)
        for coefficients in (config.expression_dim - lower, lower)
    )
    return frames * (fused + halves) + 2 * linear(1, width, width)


def motion_parts(config: DreamTalkConfig, frames: float, steps: int, guided: bool = False) -> dict[str, float]:
    """{part: FLOPs} of drawing the expression of `frames` in `steps` of diffusion.

    Guidance, at a scale other than 1, evaluates the network without style too, for which a clip of zeros is encoded.
    """
    passes = 2 if guided else 1
    return {
        "content_encoder": content_encoder(config, frames),
        "style_encoder": passes * style_clip(config),
        "denoiser": steps * passes * motion_denoiser(config, frames),
    }


def motion(config: DreamTalkConfig, frames: float, steps: int, guided: bool = False) -> float:
    """Of all `motion_parts`."""
    return sum(motion_parts(config, frames, steps, guided).values())


def code_norms(config: RendererConfig, *widths: int) -> float:
    """Of the gains and shifts that a frame's descriptor gives norms of such widths, a small network each."""
    return sum(
        linear(1, config.descriptor, config.norm_width) + linear(1, config.norm_width, 2 * width) for width in widths
    )


def mapping_net(config: RendererConfig) -> float:
    """Of a frame's descriptor from the motion around it; every convolution leaves 6 positions fewer."""
    width, positions = config.descriptor, config.motion_window - 6
    total = convolution(positions, 7, config.motion_dim, width)
    for _ in range(3):
        positions -= 6
        total += convolution(positions, 3, width, width)
    return total


def warping_net(config: RendererConfig) -> float:
    """Of a frame's flow: `flow_widths` down by halves, `flow_levels` up again."""
    widths, size = config.flow_widths, config.size
    total = convolution(size**2, 49, 3, widths[0])
    for before, width in zip(widths, widths[1:], strict=False):
        size //= 2
        total += convolution(size**2, 16, before, width) + convolution(size**2, 9, width, width)
        total += code_norms(config, before, width)
    before = widths[-1]
    for width in widths[-2 : -2 - config.flow_levels : -1]:
        # The two that stretch, the shortcut's and the second, read as many pixels as the first.
        total += convolution(size**2, 9, 2 * before + width, width) + code_norms(config, before, before, width)
        size, before = 2 * size, 2 * width  # a skip of the same width comes beside
    return total + convolution(size**2, 49, before, 2)


def editing_net(config: RendererConfig) -> float:
    """Of a frame's picture from portrait and bent portrait, without what has no effect in the published blocks."""
    widths, size = config.edit_widths, config.size
    total = convolution(size**2, 49, 6, widths[0]) + convolution(size**2, 49, widths[0], 3)
    for below, above in zip(widths, widths[1:], strict=False):
        # Down, up and the skip between them at the larger size, residual blocks at the smaller.
        total += convolution(size**2, 9, below, above) + convolution(size**2, 9, above + below, below)
        size //= 2
        total += config.edit_blocks * (convolution(size**2, 9, above, above) + code_norms(config, above))
    return total


def render_parts(config: RendererConfig, frames: float) -> dict[str, float]:
    """{part: FLOPs} of drawing so many frames; the portrait's part of the flow is computed for each of them."""
    parts = {"mapping_net": mapping_net, "warping_net": warping_net, "editing_net": editing_net}
    return {name: frames * part(config) for name, part in parts.items()}


def render(config: RendererConfig, frames: float) -> float:
    """Of all `render_parts`."""
    return sum(render_parts(config, frames).values())
