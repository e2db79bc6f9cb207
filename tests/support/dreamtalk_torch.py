"""A small DreamTalk in torch, which stands in for the original in tests of the torch backend.

The denoiser is built of torch's own transformer layers, with the published tensors' names and a sampler in torch; the
renderer is the Flax one through `to_torch` (other tests compare its values with the original's).
"""

import numpy as np
import torch
from flax import nnx
from torch import nn
from torch.nn import functional as F

from empatheia_jax.generators.bridge import to_torch
from empatheia_jax.generators.dreamtalk.config import DreamTalkConfig
from empatheia_jax.generators.dreamtalk.renderer import Renderer
from empatheia_jax.generators.dreamtalk.transformer import position_table
from empatheia_jax.testing.tiny_generators import DREAMTALK

CONFIG: DreamTalkConfig = DREAMTALK["denoiser"][1]


def _layers(kind: type, stack: type, config: DreamTalkConfig, norm: nn.Module | None) -> nn.Module:
    layer = kind(config.width, config.heads, config.mlp_width, dropout=0.0, batch_first=True)
    options = {"enable_nested_tensor": False} if stack is nn.TransformerEncoder else {}
    return stack(layer, config.layers, norm, **options)


class ContentEncoder(nn.Module):
    """Windows of audio features [B, F, W, D] to contents of the same length."""

    def __init__(self, config: DreamTalkConfig):
        super().__init__()
        self.increase_embed_dim = nn.Linear(config.audio_dim, config.width)
        self.encoder = _layers(nn.TransformerEncoderLayer, nn.TransformerEncoder, config, None)

    def forward(self, x):
        h = self.increase_embed_dim(x).flatten(0, 1)
        return self.encoder(h + torch.from_numpy(position_table(*h.shape[1:]))).unflatten(0, x.shape[:2])


class Pooling(nn.Module):
    """Attention pooling over time, with a mask of the padding."""

    def __init__(self, width: int):
        super().__init__()
        self.W = nn.Sequential(nn.Linear(width, width), nn.Mish(), nn.Linear(width, 1))

    def forward(self, x, padding):
        weights = F.softmax(self.W(x)[..., 0] - 1e5 * padding, dim=-1)
        return (weights[..., None] * x).sum(dim=1)


class StyleEncoder(nn.Module):
    """A clip of expressions to a style code."""

    def __init__(self, config: DreamTalkConfig):
        super().__init__()
        self.increase_embed_dim = nn.Linear(config.expression_dim, config.width)
        self.encoder = _layers(nn.TransformerEncoderLayer, nn.TransformerEncoder, config, None)
        self.aggregate_method = Pooling(config.width)

    def forward(self, clip, padding):
        h = self.increase_embed_dim(clip)
        h = self.encoder(h + torch.from_numpy(position_table(*h.shape[1:])), src_key_padding_mask=padding)
        return self.aggregate_method(h, padding.to(h.dtype))


class Decoder(nn.Module):
    """Windows of contents and noisy expressions to the expression of the frame in the middle of each."""

    def __init__(self, config: DreamTalkConfig):
        super().__init__()
        self.config, lower = config, list(config.lower_face)
        for name in ("upper", "lower"):
            norm = nn.LayerNorm(config.width)
            setattr(self, f"{name}_decoder", _layers(nn.TransformerDecoderLayer, nn.TransformerDecoder, config, norm))
        a, b, count = config.width, config.tail_width, len(lower)
        for name, out in (("upper", config.expression_dim - count), ("lower", count)):
            layers = (nn.Linear(a, b), nn.ReLU(), nn.Linear(b, b), nn.ReLU(), nn.Linear(b, out))
            setattr(self, f"{name}_tail_fc", nn.Sequential(*layers))

    def forward(self, memory, style):
        rows, frames, window, width = memory.shape
        flat = memory.flatten(0, 1)
        query = style.repeat_interleave(frames, 0)[:, None] + torch.from_numpy(position_table(window, width))
        expression = memory.new_zeros(rows * frames, self.config.expression_dim)
        lower = list(self.config.lower_face)
        upper = [i for i in range(self.config.expression_dim) if i not in lower]
        expression[:, upper] = self.upper_tail_fc(self.upper_decoder(query, flat)[:, window // 2])
        expression[:, lower] = self.lower_tail_fc(self.lower_decoder(query, flat)[:, window // 2])
        return expression.unflatten(0, (rows, frames))


class NoisePredictor(nn.Module):
    """The denoiser: noisy expressions, time, audio and style clip to expressions."""

    def __init__(self, config: DreamTalkConfig = CONFIG):
        super().__init__()
        width = config.width
        self.content_encoder, self.style_encoder = ContentEncoder(config), StyleEncoder(config)
        self.decoder = Decoder(config)
        self.content_xt_to_decoder_input_wo_time = nn.Sequential(
            nn.Linear(width + config.expression_dim, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, width),
        )
        self.time_embed_net = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x, t, audio, style_clip, *, style_pad_mask):
        content = self.content_encoder(audio)
        noisy = x[:, :, None].expand(*content.shape[:3], -1)
        half = content.shape[-1] // 2
        angle = t[:, None] * torch.from_numpy((1e4 ** (-np.arange(half) / half)).astype(np.float32))
        time = self.time_embed_net(torch.cat([angle.cos(), angle.sin()], dim=-1))
        memory = self.content_xt_to_decoder_input_wo_time(torch.cat([content, noisy], dim=-1)) + time[:, None, None]
        return self.decoder(memory, self.style_encoder(style_clip, style_pad_mask))


class DiffusionNet(nn.Module):
    """The diffusion model, with the arguments of the original."""

    def __init__(self, cfg=None, net=None, var_sched=None, config: DreamTalkConfig = CONFIG):
        super().__init__()
        self.net = net or NoisePredictor(config)
        self.register_buffer("null_style_clip", torch.zeros(config.style_frames, config.expression_dim))
        self.register_buffer("null_pad_mask", torch.zeros(config.style_frames, dtype=torch.bool))
        betas = torch.cat([torch.zeros(1), torch.linspace(1e-4, 0.02, 1000)]).double()
        self.register_buffer("bars", torch.exp(torch.cumsum(torch.log(1 - betas), 0)), persistent=False)

    def sample(
        self,
        audio,
        style_clip,
        style_pad_mask,
        output_dim,
        *,
        use_cf_guidance,
        cfg_scale,
        sample_method,
        ddim_num_step,
    ):
        def denoised(x, t):
            steps = torch.full((len(x),), float(t))
            conditional = self.net(x, steps, audio, style_clip, style_pad_mask=style_pad_mask)
            if not use_cf_guidance:
                return conditional
            no_mask = self.null_pad_mask[None]
            unconditional = self.net(x, steps, audio, self.null_style_clip[None], style_pad_mask=no_mask)
            return unconditional + cfg_scale * (conditional - unconditional)

        x = torch.randn([*audio.shape[:2], output_dim])
        if sample_method == "ddim":
            times = list(range(1, 1001, 1000 // ddim_num_step))[::-1]
            for t, next_t in zip(times, [*times[1:], 0], strict=True):
                bar, next_bar = self.bars[t], self.bars[next_t]
                x0 = denoised(x, t)
                noise = (x - bar.sqrt() * x0) / (1 - bar).sqrt()
                x = (next_bar.sqrt() * x0 + (1 - next_bar).sqrt() * noise).float()
            return x
        for t in range(1000, 0, -1):
            bar, next_bar = self.bars[t], self.bars[t - 1]
            beta = 1 - bar / next_bar
            mean = next_bar.sqrt() * beta / (1 - bar) * denoised(x, t)
            mean = mean + (1 - beta).sqrt() * (1 - next_bar) / (1 - bar) * x
            deviation = (beta * (1 - next_bar) / (1 - bar)).sqrt()
            x = (mean + (deviation * torch.randn_like(x) if t > 1 else 0)).float()
        return x


class FaceGenerator(nn.Module):
    """The renderer, on pictures [N, C, H, W] and motion [F, 73, 27]."""

    def __init__(self, **conf):
        super().__init__()
        graphdef, shapes = nnx.split(nnx.eval_shape(lambda: Renderer(DREAMTALK["renderer"][1])))
        state = nnx.map_state(lambda path, v: v.replace(np.zeros(v.shape, np.float32)), shapes)
        self.flax = to_torch(lambda state, *inputs: nnx.merge(graphdef, state).draw(*inputs), state)

    def forward(self, image, driving):
        picture = self.flax(image.permute(0, 2, 3, 1).contiguous(), driving.transpose(1, 2).contiguous())
        return {"fake_image": picture.permute(0, 3, 1, 2)}
