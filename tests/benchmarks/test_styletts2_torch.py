"""The torch modules that speech is compared with compute what the original does (its recorded values)."""

import json
from unittest import mock

import numpy as np
import pytest

from support.styletts2_goldens import state_dict

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module", params=["libritts", "ljspeech"])
def loaded(request, goldens):
    """Return a kind and its networks with the goldens' weights; every tensor of the manifest is loaded."""
    from styletts2_peer import StandIn

    kind = request.param
    manifest = json.loads((goldens / "styletts2" / f"manifest_{kind}.json").read_text())
    nets = StandIn(kind).nets
    arrays = state_dict(goldens, manifest)
    for name, net in nets.items():
        state = {k.removeprefix(f"{name}."): torch.from_numpy(v) for k, v in arrays.items() if k.startswith(f"{name}.")}
        net.load_state_dict({k: v for k, v in state.items() if not k.endswith("position_ids")}, strict=True)
    return kind, nets


def load(goldens, name: str) -> dict[str, torch.Tensor]:
    with np.load(goldens / "styletts2" / f"{name}.npz") as golden:
        return {key: torch.from_numpy(np.asarray(golden[key])) for key in golden}


def relative_error(actual, expected) -> float:
    assert actual.shape == expected.shape, f"{tuple(actual.shape)} is not {tuple(expected.shape)}"
    return float((actual - expected).abs().max() / expected.abs().max())


@pytest.mark.slow
@torch.no_grad()
def test_the_stand_in_is_the_original(loaded, goldens):
    kind, nets = loaded
    golden = load(goldens, f"e2e_{kind}")
    tokens, lengths = golden["in_tokens"].long(), torch.tensor([golden["in_tokens"].shape[1]])
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    bert_states = nets["bert"](tokens, attention_mask=(~mask).int()).last_hidden_state
    reference = {}
    if kind == "libritts":
        reference["features"] = torch.cat(
            [nets[n](golden["in_mel"]) for n in ("style_encoder", "predictor_encoder")], dim=1
        )
        assert relative_error(reference["features"], golden["mid_ref_s"]) <= 1e-5
    step_noise = iter(golden["in_step_noise"])
    with mock.patch("torch.randn_like", lambda x: next(step_noise)):
        style = nets["diffusion"](
            noise=golden["in_noise"], embedding=bert_states, embedding_scale=1, num_steps=5, **reference
        )
    assert relative_error(style[:, 0], golden["mid_s_pred"]) <= 2e-5
    acoustic, prosodic = golden["mid_style_acoustic"], golden["mid_style_prosody"]
    d = nets["predictor"].text_encoder(nets["bert_encoder"](bert_states).transpose(-1, -2), prosodic, lengths, mask)
    duration = torch.sigmoid(nets["predictor"].duration_proj(nets["predictor"].lstm(d)[0])).sum(-1)
    assert relative_error(duration, golden["mid_duration"]) <= 2e-4
    text, frames = nets["text_encoder"](tokens, lengths, mask), golden["mid_frames"].long()
    asr, en = (torch.repeat_interleave(x, frames, dim=-1) for x in (text, d.transpose(-1, -2)))
    if kind == "libritts":
        asr, en = (torch.cat([x[..., :1], x[..., :-1]], dim=-1) for x in (asr, en))
    f0, energy = nets["predictor"].F0Ntrain(en, prosodic)
    assert relative_error(f0, golden["mid_F0"]) <= 5e-4 and relative_error(energy, golden["mid_N"]) <= 5e-4
    # The vocoder gets the recorded source: its harmonics are chaotic in F0.
    nets["decoder"].generator.m_source.forward = lambda f0: golden["mid_source"]
    wave = nets["decoder"](asr, golden["mid_F0"], golden["mid_N"], acoustic).reshape(-1)[: len(golden["out_wave"])]
    if kind == "libritts":
        assert relative_error(wave, golden["out_wave"]) <= 5e-4
    else:  # phases of negative real values are + or - pi by rounding: see the goldens' README
        assert float(torch.corrcoef(torch.stack([wave, golden["out_wave"]]))[0, 1]) > 0.9
