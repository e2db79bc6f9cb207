"""StyleTTS 2 in torch, written for this benchmark: the peer where no checkout of the original is given.

Eager modules with the published tensors' names, for one text at a time: every published state dict loads, and the
outputs are the original's (`tests/benchmarks/test_styletts2_torch.py`).
"""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import spectral_norm, weight_norm

from empatheia_jax.generators.styletts2 import diffusion
from empatheia_jax.generators.styletts2.config import StyleTTS2Config


def weight_normed_conv(width_in: int, width_out: int, window: int, **options) -> nn.Module:
    """Return a weight-normed convolution that keeps the length."""
    dilation = options.get("dilation", 1)
    padding = options.pop("padding", (window - 1) * dilation // 2)
    return weight_norm(nn.Conv1d(width_in, width_out, window, padding=padding, **options))


def bilstm(width_in: int, width_out: int) -> nn.LSTM:
    return nn.LSTM(width_in, width_out // 2, batch_first=True, bidirectional=True)


def snake(x, alpha):
    return x + torch.sin(alpha * x) ** 2 / alpha


class ChannelNorm(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x):
        return F.layer_norm(x.transpose(1, 2), x.shape[1:2], self.gamma, self.beta, 1e-5).transpose(1, 2)


class TextEncoder(nn.Module):
    def __init__(self, config: StyleTTS2Config):
        super().__init__()
        width = config.hidden_dim
        self.embedding = nn.Embedding(config.n_token, width)
        self.cnn = nn.ModuleList(
            nn.Sequential(weight_normed_conv(width, width, 5), ChannelNorm(width), nn.LeakyReLU(0.2))
            for _ in range(config.n_layer)
        )
        self.lstm = bilstm(width, width)

    def forward(self, tokens, lengths, mask):
        x = self.embedding(tokens).transpose(1, 2)
        for layer in self.cnn:
            x = layer(x)
        return self.lstm(x.transpose(1, 2))[0].transpose(1, 2)


class AdaIN(nn.Module):
    def __init__(self, style: int, width: int):
        super().__init__()
        self.fc = nn.Linear(style, 2 * width)

    def forward(self, x, style):
        gain, shift = self.fc(style)[..., None].chunk(2, dim=1)
        return (1 + gain) * F.instance_norm(x) + shift


class AdaLayerNorm(nn.Module):
    def __init__(self, style: int, width: int):
        super().__init__()
        self.fc = nn.Linear(style, 2 * width)

    def forward(self, x, style):
        gain, shift = self.fc(style)[:, None].chunk(2, dim=-1)
        return (1 + gain) * F.layer_norm(x, x.shape[-1:]) + shift


class AdainResBlk1d(nn.Module):
    def __init__(self, width_in: int, width_out: int, style: int, upsample: bool = False):
        super().__init__()
        self.upsample = upsample
        self.conv1, self.conv2 = weight_normed_conv(width_in, width_out, 3), weight_normed_conv(width_out, width_out, 3)
        self.norm1, self.norm2 = AdaIN(style, width_in), AdaIN(style, width_out)
        if width_in != width_out:
            self.conv1x1 = weight_normed_conv(width_in, width_out, 1, bias=False)
        if upsample:
            self.pool = weight_norm(
                nn.ConvTranspose1d(width_in, width_in, 3, stride=2, padding=1, output_padding=1, groups=width_in)
            )

    def forward(self, x, style):
        shortcut, x = x, F.leaky_relu(self.norm1(x, style), 0.2)
        if self.upsample:
            shortcut, x = shortcut.repeat_interleave(2, dim=-1), self.pool(x)
        x = self.conv2(F.leaky_relu(self.norm2(self.conv1(x), style), 0.2))
        if hasattr(self, "conv1x1"):
            shortcut = self.conv1x1(shortcut)
        return (x + shortcut) / math.sqrt(2)


class DurationEncoder(nn.Module):
    def __init__(self, config: StyleTTS2Config):
        super().__init__()
        width, style = config.hidden_dim, config.style_dim
        layers = [(bilstm(width + style, width), AdaLayerNorm(style, width)) for _ in range(config.n_layer)]
        self.lstms = nn.ModuleList(part for pair in layers for part in pair)

    def forward(self, x, style, lengths, mask):
        x = x.transpose(1, 2)
        style_frames = style[:, None].expand(-1, x.shape[1], -1)
        x = torch.cat([x, style_frames], dim=-1)
        for lstm, norm in zip(self.lstms[::2], self.lstms[1::2], strict=True):
            x = torch.cat([norm(lstm(x)[0], style), style_frames], dim=-1)
        return x


class Projection(nn.Module):
    def __init__(self, width: int, out: int):
        super().__init__()
        self.linear_layer = nn.Linear(width, out)

    def forward(self, x):
        return self.linear_layer(x)


class Predictor(nn.Module):
    def __init__(self, config: StyleTTS2Config):
        super().__init__()
        width, style = config.hidden_dim, config.style_dim
        self.text_encoder = DurationEncoder(config)
        self.lstm, self.shared = bilstm(width + style, width), bilstm(width + style, width)
        self.duration_proj = Projection(width, config.max_dur)
        self.F0, self.N = (
            nn.ModuleList(
                [
                    AdainResBlk1d(width, width, style),
                    AdainResBlk1d(width, width // 2, style, upsample=True),
                    AdainResBlk1d(width // 2, width // 2, style),
                ]
            )
            for _ in range(2)
        )
        self.F0_proj, self.N_proj = nn.Conv1d(width // 2, 1, 1), nn.Conv1d(width // 2, 1, 1)

    def F0Ntrain(self, en, style):
        shared = self.shared(en.transpose(1, 2))[0].transpose(1, 2)
        curves = []
        for blocks, project in ((self.F0, self.F0_proj), (self.N, self.N_proj)):
            x = shared
            for block in blocks:
                x = block(x, style)
            curves.append(project(x)[:, 0])
        return curves


class ResBlock1(nn.Module):
    def __init__(self, width: int, window: int, dilations, style: int):
        super().__init__()
        self.convs1 = nn.ModuleList(weight_normed_conv(width, width, window, dilation=d) for d in dilations)
        self.convs2 = nn.ModuleList(weight_normed_conv(width, width, window) for _ in dilations)
        self.adain1 = nn.ModuleList(AdaIN(style, width) for _ in dilations)
        self.adain2 = nn.ModuleList(AdaIN(style, width) for _ in dilations)
        self.alpha1 = nn.ParameterList(nn.Parameter(torch.ones(1, width, 1)) for _ in dilations)
        self.alpha2 = nn.ParameterList(nn.Parameter(torch.ones(1, width, 1)) for _ in dilations)

    def forward(self, x, style):
        parts = (self.convs1, self.convs2, self.adain1, self.adain2, self.alpha1, self.alpha2)
        for conv1, conv2, norm1, norm2, alpha1, alpha2 in zip(*parts, strict=True):
            y = conv1(snake(norm1(x, style), alpha1))
            x = x + conv2(snake(norm2(y, style), alpha2))
        return x


class Source(nn.Module):
    def __init__(self):
        super().__init__()
        self.l_linear = nn.Linear(9, 1)

    def forward(self, f0):
        """Return the source float32 [B, 300 L] of F0 [B, L, 1]; phases are interpolated linearly between frames."""
        harmonics = torch.arange(1, 10, device=f0.device, dtype=f0.dtype)
        cycles = torch.cumsum((f0 * harmonics / 24_000) % 1, dim=1) * 300
        phase = F.interpolate(cycles.transpose(1, 2), scale_factor=300, mode="linear").transpose(1, 2)
        voiced = (f0 > 10).to(f0.dtype).repeat_interleave(300, dim=1)
        sines = 0.1 * torch.sin(2 * math.pi * phase) * voiced
        sines = sines + torch.randn_like(sines) * (0.003 * voiced + 0.1 / 3 * (1 - voiced))
        return torch.tanh(self.l_linear(sines))[..., 0]


class Vocoder(nn.Module):
    def __init__(self, config: StyleTTS2Config):
        super().__init__()
        self.config, self.hifi = config, config.decoder_type == "hifigan"
        rates, style, first = config.upsample_rates, config.style_dim, config.upsample_initial_channel
        source_width = 1 if self.hifi else config.gen_istft_n_fft + 2
        self.m_source = Source()
        self.ups, self.noise_convs, self.noise_res, self.resblocks = (nn.ModuleList() for _ in range(4))
        for i, (rate, window) in enumerate(zip(rates, config.upsample_kernel_sizes, strict=True)):
            a, b = first // 2**i, first // 2 ** (i + 1)
            padding = rate // 2 + rate % 2 if self.hifi else (window - rate) // 2
            extra = rate % 2 if self.hifi else 0
            self.ups.append(weight_norm(nn.ConvTranspose1d(a, b, window, rate, padding, extra)))
            later = math.prod(rates[i + 1 :])
            last = i + 1 == len(rates)
            self.noise_convs.append(
                nn.Conv1d(source_width, b, 1)
                if last
                else nn.Conv1d(source_width, b, 2 * later, later, (later + 1) // 2)
            )
            self.noise_res.append(ResBlock1(b, 11 if last else 7, (1, 3, 5), style))
            for kernel, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True):
                self.resblocks.append(ResBlock1(b, kernel, dilations, style))
        out = 1 if self.hifi else config.gen_istft_n_fft + 2
        self.conv_post = weight_norm(nn.Conv1d(b, out, 7, padding=3))
        if self.hifi:
            widths = [first // 2**i for i in range(len(rates) + 1)]
            self.alphas = nn.ParameterList(nn.Parameter(torch.ones(1, width, 1)) for width in widths)

    def forward(self, x: Any, style, f0):
        source = self.m_source(f0[..., None])
        size, hop = self.config.gen_istft_n_fft, self.config.gen_istft_hop_size
        window = torch.hann_window(size, device=x.device, dtype=x.dtype)
        if self.hifi:
            source_features = source[:, None]
        else:
            spectrum = torch.stft(source, size, hop, size, window, return_complex=True)
            source_features = torch.cat([spectrum.abs(), spectrum.angle()], dim=1)
        count = len(self.config.resblock_kernel_sizes)
        for i, up in enumerate(self.ups):
            x = up(snake(x, self.alphas[i]) if self.hifi else F.leaky_relu(x, 0.1))
            if not self.hifi and i + 1 == len(self.ups):
                x = F.pad(x, (1, 0), mode="reflect")
            x = x + self.noise_res[i](self.noise_convs[i](source_features), style)
            x = sum(block(x, style) for block in self.resblocks[i * count : (i + 1) * count]) / count
        if self.hifi:
            return torch.tanh(self.conv_post(snake(x, self.alphas[-1])))
        magnitude, phase = self.conv_post(F.leaky_relu(x, 0.01)).chunk(2, dim=1)
        spectrum = torch.polar(magnitude.exp(), torch.sin(phase))
        return torch.istft(spectrum, size, hop, size, window)[:, None]


class Decoder(nn.Module):
    def __init__(self, config: StyleTTS2Config):
        super().__init__()
        width, style = config.hidden_dim, config.style_dim
        self.encode = AdainResBlk1d(width + 2, 1024, style)
        self.decode = nn.ModuleList(
            [AdainResBlk1d(1024 + 66, 1024, style) for _ in range(3)]
            + [AdainResBlk1d(1024 + 66, width, style, upsample=True)]
        )
        self.F0_conv, self.N_conv = (weight_norm(nn.Conv1d(1, 1, 3, stride=2, padding=1)) for _ in range(2))
        self.asr_res = nn.Sequential(weight_normed_conv(width, 64, 1))
        self.generator = Vocoder(config)

    def forward(self, asr, f0, energy, style):
        curves = [self.F0_conv(f0[:, None]), self.N_conv(energy[:, None])]
        x, residual = self.encode(torch.cat([asr, *curves], dim=1), style), self.asr_res(asr)
        for block in self.decode:
            x = block(torch.cat([x, residual, *curves], dim=1), style)
        return self.generator(x, style, f0)


class Attention(nn.Module):
    def __init__(self, config: StyleTTS2Config, width: int):
        super().__init__()
        middle = config.diffusion_heads * config.diffusion_head_features
        self.heads, self.multispeaker = config.diffusion_heads, config.multispeaker
        self.norm, self.norm_context = (
            AdaLayerNorm(2 * config.style_dim, width) if self.multispeaker else nn.LayerNorm(width) for _ in range(2)
        )
        self.to_q, self.to_kv = nn.Linear(width, middle, bias=False), nn.Linear(width, 2 * middle, bias=False)
        self.attention = nn.ModuleDict({"to_out": nn.Linear(middle, width)})

    def forward(self, x, features):
        condition = (features,) if self.multispeaker else ()
        query = self.to_q(self.norm(x, *condition))
        key, value = self.to_kv(self.norm_context(x, *condition)).chunk(2, dim=-1)
        query, key, value = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (query, key, value))
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.attention["to_out"](mixed.transpose(1, 2).flatten(-2))


class Fourier(nn.Module):
    def __init__(self, count: int):
        super().__init__()
        self.weights = nn.Parameter(torch.randn(count))

    def forward(self, time):
        angle = 2 * math.pi * time[:, None] * self.weights
        return torch.cat([time[:, None], angle.sin(), angle.cos()], dim=-1)


class Block(nn.Module):
    def __init__(self, config: StyleTTS2Config, width: int):
        super().__init__()
        self.attention = Attention(config, width)
        inner = width * config.diffusion_multiplier
        self.feed_forward = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))


class Denoiser(nn.Module):
    def __init__(self, config: StyleTTS2Config):
        super().__init__()
        style, words = 2 * config.style_dim, config.plbert_hidden
        width = style + words
        self.blocks: Any = nn.ModuleList(Block(config, width) for _ in range(config.diffusion_layers))
        fourier = nn.Sequential(Fourier(config.style_dim), nn.Linear(1 + 2 * config.style_dim, width))
        self.to_time = nn.Sequential(fourier, nn.GELU())
        if config.multispeaker:
            self.to_features = nn.Sequential(nn.Linear(style, width), nn.GELU())
        self.to_mapping = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU())
        self.to_out = nn.Sequential(nn.Identity(), nn.Conv1d(width, style, 1))
        self.fixed_embedding = nn.ModuleDict({"embedding": nn.Embedding(config.plbert_positions, words)})

    def forward(self, x, time, words, features):
        mapped = self.to_time(time)
        if features is not None:
            mapped = mapped + self.to_features(features)
        mapped = self.to_mapping(mapped)[:, None]
        h = torch.cat([x.expand(-1, words.shape[1], -1), words], dim=-1)
        for block in self.blocks:
            h = h + mapped
            h = h + block.attention(h, features)
            h = h + block.feed_forward(h)
        return self.to_out(h.mean(dim=1)[..., None]).transpose(1, 2)


class Diffusion(nn.Module):
    """The style sampler; its denoiser has both of its published names."""

    def __init__(self, config: StyleTTS2Config):
        super().__init__()
        self.diffusion = nn.Module()
        self.diffusion.net = self.unet = Denoiser(config)
        self.sigma_data = config.sigma_data

    def forward(self, noise, embedding, embedding_scale, num_steps, *, features=None):
        """Sample a style [1, 1, 256] from noise [1, 1, 256] by ADPM2 without guidance; the original's arguments."""
        data = self.sigma_data

        def denoise(x, sigma):
            total = sigma**2 + data**2
            time = torch.full((1,), math.log(sigma) / 4, device=x.device, dtype=x.dtype)
            out = self.unet(x / math.sqrt(total), time, embedding, features)
            return data**2 / total * x + sigma * data / math.sqrt(total) * out

        x = float(diffusion.noise_levels(num_steps)[0]) * noise
        for sigma, up, down, middle in diffusion.update_levels(num_steps).tolist():
            halfway = x + (x - denoise(x, sigma)) / sigma * (middle - sigma)
            x = x + (halfway - denoise(halfway, middle)) / middle * (down - sigma) + up * torch.randn_like(x)
        return x


class Down(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = spectral_norm(nn.Conv2d(width, width, 3, 2, 1, groups=width))


class StyleBlock(nn.Module):
    def __init__(self, a: int, b: int):
        super().__init__()
        self.downsample_res = Down(a)
        self.conv1, self.conv2 = (spectral_norm(nn.Conv2d(a, out, 3, 1, 1)) for out in (a, b))
        if a != b:
            self.conv1x1 = spectral_norm(nn.Conv2d(a, b, 1, bias=False))

    def forward(self, x):
        shortcut = self.conv1x1(x) if hasattr(self, "conv1x1") else x
        if shortcut.shape[-1] % 2:
            shortcut = torch.cat([shortcut, shortcut[..., -1:]], dim=-1)
        x = self.downsample_res.conv(self.conv1(F.leaky_relu(x, 0.2)))
        return (F.avg_pool2d(shortcut, 2) + self.conv2(F.leaky_relu(x, 0.2))) / math.sqrt(2)


class StyleEncoder(nn.Module):
    def __init__(self, config: StyleTTS2Config):
        super().__init__()
        widths = [min(config.dim_in * 2**i, config.max_conv_dim) for i in range(5)]
        self.shared = nn.Sequential(
            spectral_norm(nn.Conv2d(1, widths[0], 3, 1, 1)),
            *(StyleBlock(a, b) for a, b in zip(widths, widths[1:], strict=False)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(widths[-1], widths[-1], 5)),
            nn.AdaptiveAvgPool2d(1),
            nn.LeakyReLU(0.2),
        )
        self.unshared = nn.Linear(widths[-1], config.style_dim)

    def forward(self, mel):
        return self.unshared(self.shared(mel).flatten(1))
