"""FLOPs of the neural generators from formulas: StyleTTS 2 on an utterance, DreamTalk on a clip. Inference only.

As in `flops` a matrix product counts 2 FLOPs per multiply-add. A convolution is a product with every window, padding
included. Norms, activations, gathers, means, interpolation (a warped pixel's four taps) and the inverse Fourier
transform count nothing; the linear maps from a style to a norm's scale and shift count. What a program pads to a bucket
or a chunk, or computes again for a later stage, is not counted.
"""

import math

from empatheia_jax.generators.dreamtalk.config import DreamTalkConfig, RendererConfig
from empatheia_jax.generators.dreamtalk.encoders import FEATURES_PER_FRAME
from empatheia_jax.generators.styletts2.config import SAMPLES_PER_FRAME, StyleTTS2Config
from empatheia_jax.generators.styletts2.decoder import HARMONICS, HIDDEN, RESIDUAL
from empatheia_jax.planning.flops import attention, attention_block, feed_forward, linear


def convolution(positions: float, window: int, width_in: int, width_out: int) -> float:
    """Return the FLOPs of a convolution.

    Args:
      positions: positions of its output; for a transposed convolution those of its input.
      window: taps of its kernel, all dimensions together.
      width_in: input channels; 1 for a depthwise convolution.
      width_out: output channels.
    """
    return linear(positions, window * width_in, width_out)


# StyleTTS 2 -----------------------------------------------------------------------------------------------------------


def lstm(positions: float, width_in: int, width_out: int) -> float:
    """Return the FLOPs of a bidirectional LSTM; each direction has half of `width_out`."""
    half = width_out // 2
    return 2 * (linear(positions, width_in, 4 * half) + linear(positions, half, 4 * half))


def style_norms(style: int, *widths: int) -> float:
    """Return the FLOPs of mapping a style to the scales and shifts of norms of these widths, once an utterance."""
    return linear(1, style, 2 * sum(widths))


def text_encoder(config: StyleTTS2Config, phonemes: float) -> float:
    """Return the FLOPs of h_text: convolutions and a bidirectional LSTM."""
    width = config.hidden_dim
    return config.n_layer * convolution(phonemes, 5, width, width) + lstm(phonemes, width, width)


def plbert(config: StyleTTS2Config, phonemes: float) -> float:
    """Return the FLOPs of h_bert: one layer, applied `plbert_layers` times."""
    width = config.plbert_hidden
    layer = attention_block(phonemes, phonemes, phonemes, width) + feed_forward(
        phonemes, width, config.plbert_mlp, width
    )
    return linear(phonemes, config.plbert_embedding, width) + config.plbert_layers * layer


def denoiser_evaluations(steps: int, guided: bool = False) -> int:
    """Return how often sampling a style evaluates the denoiser: twice an update, with guidance four times.

    Args:
      steps: number of noise levels; one more than updates.
      guided: whether the denoiser is evaluated without words too.
    """
    return 2 * (steps - 1) * (2 if guided else 1)


def style_denoiser(config: StyleTTS2Config, phonemes: float) -> float:
    """Return the FLOPs of one evaluation of the style denoiser."""
    style = 2 * config.style_dim
    width, middle = style + config.plbert_hidden, config.diffusion_heads * config.diffusion_head_features
    layer = linear(phonemes, width, 3 * middle) + attention(phonemes, phonemes, middle)
    layer += linear(phonemes, middle, width)
    layer += feed_forward(phonemes, width, config.diffusion_multiplier * width, width)
    mapping = linear(1, 1 + style, width) + 2 * linear(1, width, width)
    if config.multispeaker:  # the reference's style sets both norms of a layer, and is mapped with the noise level
        layer += style_norms(style, width, width)
        mapping += linear(1, style, width)
    return mapping + config.diffusion_layers * layer + linear(1, width, style)


def duration_encoder(config: StyleTTS2Config, phonemes: float) -> float:
    """Return the FLOPs of the encoder before durations, F0 and energy: h_bert, LSTMs and AdaIN norms."""
    width, style = config.hidden_dim, config.style_dim
    layer = lstm(phonemes, width + style, width) + style_norms(style, width)
    return linear(phonemes, config.plbert_hidden, width) + config.n_layer * layer


def durations(config: StyleTTS2Config, phonemes: float) -> float:
    """Return the FLOPs of predicting durations from the duration encoder's output."""
    width = config.hidden_dim
    return lstm(phonemes, width + config.style_dim, width) + linear(phonemes, width, config.max_dur)


def adain_block(positions: float, width_in: int, width_out: int, style: int, *, upsample: bool = False) -> float:
    """Return the FLOPs of an AdainResBlk1d.

    Args:
      positions: positions of its input.
      width_in: input channels.
      width_out: output channels.
      style: width of the style.
      upsample: its convolutions work on twice as many positions.
    """
    total = linear(positions, 3, width_in) if upsample else 0.0  # depthwise transposed convolution
    positions *= 2 if upsample else 1
    total += convolution(positions, 3, width_in, width_out) + convolution(positions, 3, width_out, width_out)
    total += linear(positions, width_in, width_out) if width_in != width_out else 0.0
    return total + style_norms(style, width_in, width_out)


def f0_and_energy(config: StyleTTS2Config, frames: float) -> float:
    """Return the FLOPs of predicting F0 and energy, two values each for a frame of 25 ms."""
    width, style = config.hidden_dim, config.style_dim
    half = width // 2
    branch = (
        adain_block(frames, width, width, style)
        + adain_block(frames, width, half, style, upsample=True)
        + adain_block(2 * frames, half, half, style)
        + linear(2 * frames, half, 1)
    )
    return lstm(frames, width + style, width) + 2 * branch


def decoder(config: StyleTTS2Config, frames: float) -> float:
    """Return the FLOPs of the decoder that turns text features, F0 and energy into the vocoder's input."""
    width, style = config.hidden_dim, config.style_dim
    concatenated = HIDDEN + RESIDUAL + 2
    blocks = (
        adain_block(frames, width + 2, HIDDEN, style)
        + 3 * adain_block(frames, concatenated, HIDDEN, style)
        + adain_block(frames, concatenated, width, style, upsample=True)
    )
    return blocks + linear(frames, width, RESIDUAL) + 2 * convolution(frames, 3, 1, 1)


def vocoder(config: StyleTTS2Config, frames: float) -> float:
    """Return the FLOPs of the harmonic source and of HiFi-GAN or iSTFTNet, on `frames` of 25 ms, two positions each."""
    spectral = config.decoder_type == "istftnet"
    source_width, output_width = (config.gen_istft_n_fft + 2,) * 2 if spectral else (1, 1)
    positions, style = 2 * frames, config.style_dim
    widths = [config.upsample_initial_channel // 2**power for power in range(len(config.upsample_rates) + 1)]
    samples = SAMPLES_PER_FRAME * frames
    total = linear(samples, HARMONICS, 1)
    if spectral:  # the source's Fourier transform is two matrix products; the inverse one is an FFT
        size = config.gen_istft_n_fft
        total += 2 * linear(samples / config.gen_istft_hop_size, size, size // 2 + 1)
    kinds = list(zip(config.resblock_kernel_sizes, map(len, config.resblock_dilation_sizes), strict=True))
    for stage, (rate, window) in enumerate(zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True)):
        width_in, width = widths[stage : stage + 2]
        total += convolution(positions, window, width_in, width)
        positions *= rate
        remaining = math.prod(config.upsample_rates[stage + 1 :])
        last = stage + 1 == len(config.upsample_rates)
        total += convolution(positions, 1 if last else 2 * remaining, source_width, width)
        for kernel, dilations in [(11 if last else 7, 3), *kinds]:  # the source's block, then the stage's
            layer = convolution(positions, kernel, width, width) + style_norms(style, width)
            total += 2 * dilations * layer
    return total + convolution(positions, 7, widths[-1], output_width)


def style_encoder(config: StyleTTS2Config, mel_frames: float) -> float:
    """Return the FLOPs of one of the two style encoders on a log-mel of so many frames of 12.5 ms."""
    widths = [min(config.dim_in * 2**power, config.max_conv_dim) for power in range(5)]
    bands, length = config.n_mels, mel_frames
    total = convolution(bands * length, 9, 1, widths[0])
    for width_in, width in zip(widths, widths[1:], strict=False):
        full, halved = bands * length, bands / 2 * length / 2  # positions before and after downsampling
        total += convolution(full, 9, width_in, width_in) + linear(halved, 9, width_in)  # downsampling is depthwise
        total += convolution(halved, 9, width_in, width)
        total += linear(full, width_in, width) if width_in != width else 0.0
        bands, length = bands / 2, length / 2
    total += convolution((bands - 4) * (length - 4), 25, widths[-1], widths[-1])
    return total + linear(1, widths[-1], config.style_dim)


def speech_parts(
    config: StyleTTS2Config,
    phonemes: float,
    frames: float,
    steps: int,
    *,
    guided: bool = False,
    mel_frames: float = 0.0,
) -> dict[str, float]:
    """Return {part: FLOPs} of speaking one utterance.

    Args:
      config: settings of the model.
      phonemes: number of symbols, the leading 0 included.
      frames: duration in the decoder's frames of 25 ms.
      steps: noise levels of style diffusion.
      guided: style diffusion is guided by the words, at an embedding scale other than 1.
      mel_frames: frames of 12.5 ms of a reference recording whose style is encoded; 0: no style is encoded.
    """
    return {
        "style_encoders": 2 * style_encoder(config, mel_frames) if mel_frames else 0.0,
        "text_encoder": text_encoder(config, phonemes),
        "plbert": plbert(config, phonemes),
        "diffusion": denoiser_evaluations(steps, guided) * style_denoiser(config, phonemes),
        "durations": duration_encoder(config, phonemes) + durations(config, phonemes),
        "curves": f0_and_energy(config, frames),
        "decoder": decoder(config, frames),
        "vocoder": vocoder(config, frames),
    }


def speech(
    config: StyleTTS2Config,
    phonemes: float,
    frames: float,
    steps: int,
    *,
    guided: bool = False,
    mel_frames: float = 0.0,
) -> float:
    """Return the FLOPs of all `speech_parts` together."""
    return sum(speech_parts(config, phonemes, frames, steps, guided=guided, mel_frames=mel_frames).values())


# DreamTalk ------------------------------------------------------------------------------------------------------------


def encoder_layers(config: DreamTalkConfig, positions: float) -> float:
    """Return the FLOPs of the transformer that encodes content or style, over one sequence."""
    layer = attention_block(positions, positions, positions, config.width)
    return config.layers * (layer + feed_forward(positions, config.width, config.mlp_width, config.width))


def content_encoder(config: DreamTalkConfig, frames: float) -> float:
    """Return the FLOPs of the content of `frames` of 40 ms: speech features are projected, windows encoded."""
    projected = linear(FEATURES_PER_FRAME * frames, config.audio_dim, config.width)
    return projected + frames * encoder_layers(config, config.window)


def style_clip_encoder(config: DreamTalkConfig) -> float:
    """Return the FLOPs of encoding a style clip, which is padded to `style_frames`."""
    length, width = config.style_frames, config.width
    pooling = linear(length, width, width) + linear(length, width, 1) + linear(1, length, width)
    return linear(length, config.expression_dim, width) + encoder_layers(config, length) + pooling


def motion_denoiser(config: DreamTalkConfig, frames: float) -> float:
    """Return the FLOPs of one evaluation: content and noisy expression fused, two decoders on each window."""
    width, window, lower = config.width, config.window, len(config.lower_face)
    fused = linear(window, width + config.expression_dim, width) + 2 * linear(window, width, width)
    layer = 2 * attention_block(window, window, window, width) + feed_forward(window, width, config.mlp_width, width)
    tail = linear(1, width, config.tail_width) + linear(1, config.tail_width, config.tail_width)
    halves = sum(
        config.layers * layer + tail + linear(1, config.tail_width, coefficients)
        for coefficients in (config.expression_dim - lower, lower)
    )
    return frames * (fused + halves) + 2 * linear(1, width, width)


def motion_parts(config: DreamTalkConfig, frames: float, steps: int, guided: bool = False) -> dict[str, float]:
    """Return {part: FLOPs} of sampling the expression of `frames`.

    Args:
      config: settings of the model.
      frames: number of frames of 40 ms.
      steps: steps of diffusion.
      guided: the denoiser is evaluated without style too, for which a clip of zeros is encoded.
    """
    passes = 2 if guided else 1
    return {
        "content_encoder": content_encoder(config, frames),
        "style_encoder": passes * style_clip_encoder(config),
        "denoiser": steps * passes * motion_denoiser(config, frames),
    }


def motion(config: DreamTalkConfig, frames: float, steps: int, guided: bool = False) -> float:
    """Return the FLOPs of all `motion_parts` together."""
    return sum(motion_parts(config, frames, steps, guided).values())


def descriptor_norms(config: RendererConfig, *widths: int) -> float:
    """Return the FLOPs of mapping a frame's descriptor to the scales and shifts of norms of these widths."""
    return sum(
        linear(1, config.descriptor, config.norm_width) + linear(1, config.norm_width, 2 * width) for width in widths
    )


def mapping_net(config: RendererConfig) -> float:
    """Return the FLOPs of a frame's descriptor; each convolution over the motion window leaves 6 positions fewer."""
    width, positions = config.descriptor, config.motion_window - 6
    total = convolution(positions, 7, config.motion_dim, width)
    for _ in range(3):
        positions -= 6
        total += convolution(positions, 3, width, width)
    return total


def warping_net(config: RendererConfig) -> float:
    """Return the FLOPs of a frame's flow: downsampled through `flow_widths`, upsampled by `flow_levels`."""
    widths, size = config.flow_widths, config.size
    total = convolution(size**2, 49, 3, widths[0])
    for width_in, width in zip(widths, widths[1:], strict=False):
        size //= 2
        total += convolution(size**2, 16, width_in, width) + convolution(size**2, 9, width, width)
        total += descriptor_norms(config, width_in, width)
    width_in = widths[-1]
    for width in widths[-2 : -2 - config.flow_levels : -1]:
        # Both transposed convolutions, the shortcut's and the second, read as many pixels as the first convolution.
        total += convolution(size**2, 9, 2 * width_in + width, width) + descriptor_norms(
            config, width_in, width_in, width
        )
        size, width_in = 2 * size, 2 * width  # a skip connection of the same width is concatenated
    return total + convolution(size**2, 49, width_in, 2)


def editing_net(config: RendererConfig) -> float:
    """Return the FLOPs of a frame from portrait and warped portrait, without published layers that have no effect."""
    widths, size = config.edit_widths, config.size
    total = convolution(size**2, 49, 6, widths[0]) + convolution(size**2, 49, widths[0], 3)
    for below, above in zip(widths, widths[1:], strict=False):
        # Downsampling, upsampling and the skip connection work at the larger size, residual blocks at the smaller.
        total += convolution(size**2, 9, below, above) + convolution(size**2, 9, above + below, below)
        size //= 2
        total += config.edit_blocks * (convolution(size**2, 9, above, above) + descriptor_norms(config, above))
    return total


def render_parts(config: RendererConfig, frames: float) -> dict[str, float]:
    """Return {part: FLOPs} of rendering `frames`; the portrait's part of the flow is computed for each frame."""
    parts = {"mapping_net": mapping_net, "warping_net": warping_net, "editing_net": editing_net}
    return {name: frames * part(config) for name, part in parts.items()}


def render(config: RendererConfig, frames: float) -> float:
    """Return the FLOPs of all `render_parts` together."""
    return sum(render_parts(config, frames).values())
