"""New reference values of StyleTTS 2 from a checkout of the original, for `tests/parity/test_styletts2.py`.

PYTHONPATH=tests:benchmarks python -m support.make_styletts2_goldens --torch-repo CHECKOUT --output DIR
EMPATHEIA_GOLDENS=DIR python -m pytest tests/parity/test_styletts2.py

The files and their layout are those of the committed goldens; weights (`--salt`), lengths and inputs (`--seed`) differ.
The original runs in float64 with its random numbers given (see the README of the committed goldens). Manifests, symbols
and `weights.py` are copied, except for the salt.
"""

import argparse
import json
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from styletts2_peer import Original

from empatheia_jax.generators.styletts2 import style
from support.golden_weights import load_recipe

COMMITTED = Path(__file__).resolve().parents[1] / "goldens"
ROUNDING, VOICING = 0.01, 0.2  # least distance of a duration from a rounding tie, of an F0 (Hz) from the threshold


def tensor(array) -> torch.Tensor:
    """Return an array as a float64 tensor."""
    return torch.from_numpy(np.asarray(array, np.float64))


def as_stored(value):
    """Return a value as the goldens store it: arrays of float64 become float32."""
    array = value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    return array.astype(np.float32) if array.dtype == np.float64 and array.ndim else array


class Maker:
    """Makes the goldens of one model, with salted weights in float64 and random inputs."""

    def __init__(self, repo: Path, kind: str, salt: str, seed: int):
        self.kind, self.seed, self.rng = kind, seed, np.random.default_rng(seed)
        self.manifest = json.loads((COMMITTED / "styletts2" / f"manifest_{kind}.json").read_text())
        weights = load_recipe(COMMITTED)
        self.peer = Original(repo, kind)
        self.nets = self.peer.nets
        for name, net in self.nets.items():
            arrays = weights.fill(self.manifest["net"][name], f"{name}.", salt, self.manifest["alias"])
            state = {key.removeprefix("module."): torch.from_numpy(array) for key, array in arrays.items()}
            missing, unexpected = net.load_state_dict(state, strict=False)
            assert not unexpected and not missing, (missing, unexpected)
            net.double()
        self.manifest["weights"] |= {"salt": salt}
        if kind == "ljspeech":
            _exact_stft(self.nets["decoder"].generator.stft)

    def normal(self, *shape) -> np.ndarray:
        """Draw normal numbers, float32 `shape`."""
        return self.rng.normal(size=shape).astype(np.float32)

    # Files

    def text_encoder(self) -> dict:
        """Make the goldens of the text encoder."""
        tokens, lengths, mask = self._texts()
        ids = torch.from_numpy(tokens).long()
        out = self.nets["text_encoder"](ids, torch.from_numpy(lengths), torch.from_numpy(mask))
        return {"in_tokens": tokens, "in_lengths": lengths, "in_mask": mask, "out": out}

    def plbert(self) -> dict:
        """Make the goldens of PL-BERT."""
        tokens, _, mask = self._texts()
        hidden = self._bert(tokens, ~mask)
        projected = self.nets["bert_encoder"](hidden).transpose(-1, -2)
        return {
            "in_tokens": tokens,
            "in_attention_mask": (~mask).astype(np.int32),
            "out_hidden": hidden,
            "out_d_en": projected,
        }

    def style(self) -> dict:
        """Make the goldens of the style encoders."""
        arrays = {}
        for name, odd in (("even", 0), ("odd", 1)):
            frames = 2 * int(self.rng.integers(36, 55)) + odd
            mels = self.normal(1, 1, 80, frames)
            arrays |= {
                f"in_mel_{name}": mels,
                f"out_style_{name}": self.nets["style_encoder"](tensor(mels)),
                f"out_prosody_{name}": self.nets["predictor_encoder"](tensor(mels)),
            }
        return arrays

    def prosody(self) -> dict:
        """Make the goldens of the prosody predictor."""
        predictor, (_, lengths, mask) = self.nets["predictor"], self._texts()
        count, frames = mask.shape[1], int(self.rng.integers(15, 30))
        d_en = np.where(mask[:, None], 0, self.normal(2, 512, count)).astype(np.float32)
        style, en, style_f0 = self.normal(2, 128), self.normal(1, 640, frames), self.normal(1, 128)
        d = predictor.text_encoder(tensor(d_en), tensor(style), torch.from_numpy(lengths), torch.from_numpy(mask))
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            d, torch.from_numpy(lengths), batch_first=True, enforce_sorted=False
        )
        lstm = predictor.lstm(packed)[0]
        lstm, _ = torch.nn.utils.rnn.pad_packed_sequence(lstm, batch_first=True, total_length=count)
        logits = predictor.duration_proj(lstm)
        shared, _ = predictor.shared(tensor(en).transpose(-1, -2))
        f0, energy = predictor.F0Ntrain(tensor(en), tensor(style_f0))
        return {
            "in_d_en": d_en,
            "in_style": style,
            "in_lengths": lengths,
            "in_mask": mask,
            "out_d": d,
            "out_lstm": lstm,
            "out_logits": logits,
            "out_duration": torch.sigmoid(logits).sum(-1),
            "in_en": en,
            "in_style_f0": style_f0,
            "mid_shared": shared,
            "out_F0": f0,
            "out_N": energy,
        }

    def diffusion(self) -> dict:
        """Make the goldens of style diffusion."""
        diffusion, words = self.nets["diffusion"].diffusion, self.normal(1, int(self.rng.integers(9, 20)), 768)
        x, time, sigmas = self.normal(1, 1, 256), self.normal(1), np.float32([0.003, 0.2, 2.5])
        scale, reference, arrays = 1.7, {}, {}
        if self.kind == "libritts":
            arrays["in_features"] = self.normal(1, 256)
            reference = {"features": tensor(arrays["in_features"])}
        mappings: list = []
        hook = diffusion.net.to_mapping.register_forward_hook(lambda module, inputs, out: mappings.append(out))
        out = diffusion.net(tensor(x), tensor(time), embedding=tensor(words), embedding_scale=1.0, **reference)
        hook.remove()

        def denoised(scale):
            condition = {"embedding": tensor(words), "embedding_scale": scale} | reference
            return torch.stack(
                [diffusion.denoise_fn(tensor(x) * float(s), sigma=float(s), **condition) for s in sigmas]
            )

        noise, steps = self.normal(1, 1, 256), self.normal(4, 1, 1, 256)
        schedule, sampler = self.peer.sampler.sigma_schedule(5, "cpu"), self.peer.sampler.sampler
        trajectory: list = []
        step = sampler.step

        def recorded_step(*arguments, **named):
            trajectory.append(step(*arguments, **named))
            return trajectory[-1]

        with mock.patch.object(sampler, "step", recorded_step):
            unguided = self._sample(noise, steps, words, scale=1.0, reference=reference)
        guided = self._sample(noise, steps, words, scale=scale, reference=reference)
        updates = [sampler.get_sigmas(float(a), float(b)) for a, b in zip(schedule[:4], schedule[1:5], strict=True)]
        return arrays | {
            "in_x": x,
            "in_embedding": words,
            "in_sigma": sigmas,
            "in_sigma_data": np.float64(diffusion.sigma_data),
            "in_embedding_scale": np.float64(scale),
            "in_time": time,
            "mid_mapping": mappings[0].reshape(1, -1),
            "out_net": out,
            "out_denoised": denoised(1.0),
            "out_denoised_cfg": denoised(scale),
            "in_noise": noise,
            "in_step_noise": steps,
            "mid_sigmas": schedule,
            "mid_sigma_up_down_mid": np.array(updates),
            "mid_x": torch.stack(trajectory),
            "out_s": unguided,
            "out_s_cfg": guided,
        }

    def decoder(self) -> dict:
        """Make the goldens of the decoder and the vocoder."""
        frames = int(self.rng.integers(9, 16))
        f0 = (150 + 60 * self.normal(1, 2 * frames)).astype(np.float32)
        f0[0, 3], f0[0, 5], f0[0, -2] = 0.0, -25.0, 4.0
        inputs = {
            "in_asr": self.normal(1, 512, frames),
            "in_F0": f0,
            "in_N": self.normal(1, 2 * frames),
            "in_s": self.normal(1, 128),
            "in_sine_noise_seed": np.int64(self.seed + 5),
        }
        arrays = dict(inputs)
        for name in ("zero", "seeded") if self.kind == "libritts" else ("seeded",):
            tensors = [inputs[key] for key in ("in_asr", "in_F0", "in_N", "in_s")]
            wave, middle = self._decode(*tensors, seed=self.seed + 5, noise_kind=name)
            arrays |= {f"mid_source_{name}": middle.pop("source"), f"out_wave_{name}": wave.reshape(1, 1, -1)}
        return arrays | {f"mid_{name}": value for name, value in middle.items()}

    def end_to_end(self) -> dict:
        """Make the goldens of the whole model, from tokens to waveform."""
        predictor = self.nets["predictor"]
        count = int(self.rng.integers(12, 24))
        tokens = self.rng.integers(1, 178, (1, count)).astype(np.int32)
        tokens[0, 0] = 0
        arrays = {
            "in_tokens": tokens,
            "in_noise": self.normal(1, 1, 256),
            "in_step_noise": self.normal(4, 1, 1, 256),
            "in_sine_noise_seed": np.int64(self.seed + 9),
        }
        ids, lengths = torch.from_numpy(tokens).long(), torch.tensor([count])
        mask = torch.zeros(1, count, dtype=torch.bool)
        text, words = self.nets["text_encoder"](ids, lengths, mask), self._bert(tokens, ~mask.numpy())
        features, reference = {}, None
        if self.kind == "libritts":
            arrays["in_mel"] = self.normal(1, 1, 80, int(self.rng.integers(70, 110)))
            encoders = (self.nets["style_encoder"], self.nets["predictor_encoder"])
            reference = torch.cat([encoder(tensor(arrays["in_mel"])) for encoder in encoders], dim=1)
            arrays["mid_ref_s"], features = reference, {"features": reference}
        noise, step_noise = arrays["in_noise"], arrays["in_step_noise"]
        style = self._sample(noise, step_noise, words.numpy(), scale=1.0, reference=features)[:, 0]
        arrays["mid_s_pred"], acoustic, prosodic = style, style[:, :128], style[:, 128:]
        if reference is not None:
            arrays |= {"in_alpha": np.float64(0.4), "in_beta": np.float64(0.6)}
            acoustic = 0.4 * acoustic + 0.6 * reference[:, :128]
            prosodic = 0.6 * prosodic + 0.4 * reference[:, 128:]
        d = predictor.text_encoder(self.nets["bert_encoder"](words).transpose(-1, -2), prosodic, lengths, mask)
        duration = torch.sigmoid(predictor.duration_proj(predictor.lstm(d)[0])).sum(-1)
        frames = torch.round(duration[0]).clamp(min=1).long()
        assert np.abs((duration[0].numpy() % 1) - 0.5).min() > ROUNDING, "a duration is near a tie: take another seed"
        if self.kind == "ljspeech":
            frames[-1] += 5
        asr, en = (torch.repeat_interleave(x, frames, dim=-1) for x in (text, d.transpose(-1, -2)))
        if self.kind == "libritts":
            asr, en = (torch.cat([x[..., :1], x[..., :-1]], dim=-1) for x in (asr, en))
        f0, energy = predictor.F0Ntrain(en, prosodic)
        assert np.abs(f0.numpy() - 10).min() > VOICING, "an F0 is near the threshold: take another seed"
        wave, middle = self._decode(asr, f0, energy, acoustic, seed=self.seed + 9, noise_kind="seeded")
        wave = wave.reshape(-1)
        return arrays | {
            "mid_style_acoustic": acoustic,
            "mid_style_prosody": prosodic,
            "mid_duration": duration,
            "mid_frames": frames.numpy().astype(np.int32),
            "mid_F0": f0,
            "mid_N": energy,
            "mid_source": middle["source"],
            "out_wave": wave[:-50] if self.kind == "libritts" else wave,
        }

    # Parts

    def _texts(self):
        """Draw two texts: (tokens, lengths, mask of the padding)."""
        lengths = np.sort(self.rng.integers(8, 25, 2))[::-1].astype(np.int32).copy()
        mask = np.arange(lengths[0])[None] >= lengths[:, None]
        tokens = np.where(mask, 0, self.rng.integers(1, 178, mask.shape)).astype(np.int32)
        return tokens, lengths, mask

    def _bert(self, tokens, valid) -> torch.Tensor:
        ids, mask = torch.from_numpy(tokens).long(), torch.from_numpy(valid.astype(np.int64))
        return self.nets["bert"](ids, attention_mask=mask).last_hidden_state

    def _sample(self, noise, steps, words, *, scale, reference) -> torch.Tensor:
        """Sample a style with given noise at each step."""
        step_noise = iter(tensor(steps))
        with mock.patch("torch.randn_like", lambda x: next(step_noise)):
            return self.peer.sampler(
                noise=tensor(noise), embedding=tensor(words), embedding_scale=scale, num_steps=5, **reference
            )

    def _decode(self, asr, f0, energy, style, *, seed: int, noise_kind: str):
        """Return (waveform, {"source", "encode", "decode", ...}), with given noise of the sine generator."""
        decoder, activations = self.nets["decoder"], {}
        samples = 600 * asr.shape[-1]
        noise = np.zeros((1, samples, 9), np.float32)
        if noise_kind == "seeded":
            noise = np.random.RandomState(seed).standard_normal((1, samples, 9)).astype(np.float32)
        noises = iter([tensor(noise), torch.zeros(1, samples, 1, dtype=torch.float64)])
        hooks = [
            decoder.encode.register_forward_hook(lambda module, inputs, out: activations.update(encode=out)),
            decoder.decode[3].register_forward_hook(lambda module, inputs, out: activations.update(decode=out)),
            decoder.generator.m_source.register_forward_hook(
                lambda module, inputs, out: activations.update(source=out[0].reshape(1, -1))
            ),
        ]
        if self.kind == "ljspeech":
            hooks.append(
                decoder.generator.conv_post.register_forward_hook(
                    lambda module, inputs, out: activations.update(conv_post=out)
                )
            )
        with mock.patch("torch.randn_like", lambda x: next(noises)):
            wave = decoder(*(x if isinstance(x, torch.Tensor) else tensor(x) for x in (asr, f0, energy, style)))
        for hook in hooks:
            hook.remove()
        if self.kind == "ljspeech":
            activations |= dict(zip(("har_mag", "har_phase"), decoder.generator.stft.last_result, strict=True))
        return wave, activations


def _exact_stft(stft) -> None:
    """Give an STFT a float64 Hann window, and real spectra a phase of 0 or +pi, never -pi by rounding."""
    stft.window = torch.hann_window(stft.win_length, periodic=True, dtype=torch.float64)

    def transform(x):
        spectrum = torch.stft(
            x, stft.filter_length, stft.hop_length, stft.win_length, window=stft.window, return_complex=True
        )
        imaginary = spectrum.imag.clone()
        imaginary[:, 0] = imaginary[:, -1] = 0.0
        imaginary[..., 0] = 0.0
        spectrum = torch.complex(spectrum.real, imaginary)
        stft.last_result = torch.abs(spectrum), torch.angle(spectrum)
        return stft.last_result

    stft.transform = transform


def main() -> None:
    """Make all files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-repo", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--salt", default="another ")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    folder = args.output / "styletts2"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(COMMITTED / "weights.py", args.output)
    shutil.copy(COMMITTED / "styletts2" / "symbols.json", folder)
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)

    def save(name: str, arrays: dict) -> None:
        np.savez(folder / f"{name}.npz", **{key: as_stored(value) for key, value in arrays.items()})
        print(folder / f"{name}.npz", flush=True)

    for kind, decoder in (("libritts", "hifigan"), ("ljspeech", "istftnet")):
        maker = Maker(args.torch_repo, kind, args.salt, args.seed)
        (folder / f"manifest_{kind}.json").write_text(json.dumps(maker.manifest))
        if kind == "libritts":
            for name in ("text_encoder", "plbert", "style", "prosody"):
                save(name, getattr(maker, name)())
            save("mel", log_mel(maker))
        save(f"diffusion_{kind}", maker.diffusion())
        save(f"decoder_{decoder}", maker.decoder())
        save(f"e2e_{kind}", maker.end_to_end())


def log_mel(maker: Maker) -> dict:
    """Make the goldens of the log-mel with librosa: the original's torchaudio may be missing."""
    import librosa

    wave = (0.1 * maker.normal(int(maker.rng.integers(20_000, 40_000)))).astype(np.float32)
    bank = librosa.filters.mel(sr=16_000, n_fft=2048, n_mels=80, fmax=8000, htk=True, norm=None, dtype=np.float64)
    frames = librosa.stft(wave.astype(np.float64), n_fft=2048, hop_length=300, win_length=1200, pad_mode="reflect")
    power = np.abs(frames)
    return {
        "in_wave": wave,
        "mid_filterbank": bank.T,
        "out_logmel": ((np.log(1e-5 + bank @ power**2) - style.MEAN) / style.DEVIATION)[None],
    }


if __name__ == "__main__":
    main()
