"""The stand-in that speech is measured against computes what the original does (its recorded values)."""

import json
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from styletts2_goldens import state_dict

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))


@pytest.fixture(scope="module", params=["libritts", "ljspeech"])
def loaded(request, goldens):
    """(kind, its networks under the goldens' weights): every tensor of the manifest is taken."""
    from styletts2_peer import StandIn

    kind = request.param
    manifest = json.loads((goldens / "styletts2" / f"manifest_{kind}.json").read_text())
    nets = StandIn(kind).nets
    arrays = state_dict(goldens, manifest)
    for name, net in nets.items():
        own = {k.removeprefix(f"{name}."): torch.from_numpy(v) for k, v in arrays.items() if k.startswith(f"{name}.")}
        net.load_state_dict({k: v for k, v in own.items() if not k.endswith("position_ids")}, strict=True)
    return kind, nets


def load(goldens, name: str) -> dict[str, torch.Tensor]:
    with np.load(goldens / "styletts2" / f"{name}.npz") as found:
        return {key: torch.from_numpy(np.asarray(found[key])) for key in found}


def error(ours, theirs) -> float:
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} is not {tuple(theirs.shape)}"
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.slow
@torch.no_grad()
def test_the_stand_in_is_the_original(loaded, goldens):
    kind, nets = loaded
    run = load(goldens, f"e2e_{kind}")
    tokens, lengths = run["in_tokens"].long(), torch.tensor([run["in_tokens"].shape[1]])
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    words = nets["bert"](tokens, attention_mask=(~mask).int()).last_hidden_state
    more = {}
    if kind == "libritts":
        more["features"] = torch.cat([nets[n](run["in_mel"]) for n in ("style_encoder", "predictor_encoder")], dim=1)
        assert error(more["features"], run["mid_ref_s"]) <= 1e-5
    fed = iter(run["in_step_noise"])
    with mock.patch("torch.randn_like", lambda x: next(fed)):
        style = nets["diffusion"](noise=run["in_noise"], embedding=words, embedding_scale=1, num_steps=5, **more)
    assert error(style[:, 0], run["mid_s_pred"]) <= 2e-5
    acoustic, prosodic = run["mid_style_acoustic"], run["mid_style_prosody"]
    d = nets["predictor"].text_encoder(nets["bert_encoder"](words).transpose(-1, -2), prosodic, lengths, mask)
    duration = torch.sigmoid(nets["predictor"].duration_proj(nets["predictor"].lstm(d)[0])).sum(-1)
    assert error(duration, run["mid_duration"]) <= 2e-4
    text, whole = nets["text_encoder"](tokens, lengths, mask), run["mid_frames"].long()
    asr, en = (torch.repeat_interleave(x, whole, dim=-1) for x in (text, d.transpose(-1, -2)))
    if kind == "libritts":
        asr, en = (torch.cat([x[..., :1], x[..., :-1]], dim=-1) for x in (asr, en))
    f0, energy = nets["predictor"].F0Ntrain(en, prosodic)
    assert error(f0, run["mid_F0"]) <= 5e-4 and error(energy, run["mid_N"]) <= 5e-4
    # the vocoder from the recorded source: what comes before it is chaotic in F0
    nets["decoder"].generator.m_source.forward = lambda f0: run["mid_source"]
    wave = nets["decoder"](asr, run["mid_F0"], run["mid_N"], acoustic).reshape(-1)[: len(run["out_wave"])]
    if kind == "libritts":
        assert error(wave, run["out_wave"]) <= 5e-4
    else:  # phases of the source's spectrum that are real are + or - pi by rounding: see the goldens' README
        assert float(torch.corrcoef(torch.stack([wave, run["out_wave"]]))[0, 1]) > 0.9
