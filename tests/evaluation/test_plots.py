"""Figures as inline SVG: in the page's colours, readable by machines, harmless to their neighbours."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from empatheia_jax.evaluation import plots
from empatheia_jax.evaluation.plots import Curve

SVG = "{http://www.w3.org/2000/svg}"


def figures() -> list[str]:
    steps = np.arange(50.0)
    pair = plots.curves([Curve("a & b", steps, 1 + steps, [49], [30.0]), Curve("c", steps, 2 + steps)], 'alt "1"')
    single = plots.curves([Curve("share", [3], [0.5])], "alt", share=True)
    points = plots.scatter({"x": ([1, 2], [1, 3]), "y": ([2], [2])}, "asked", "heard", "alt")
    wave = plots.waveform(np.sin(np.arange(24000.0)).astype(np.float32), 24000, 1.0, [0.25, 0.75], alt="alt")
    return [pair, single, points, wave]


def test_svg_stands_alone_and_follows_the_page():
    for text in figures():
        root = ElementTree.fromstring(text)
        assert root.tag == f"{SVG}svg" and root.get("role") == "img" and root.get("aria-label").startswith("alt")
        assert not root.findall(f".//{SVG}style"), "a style element would reach the whole page"
        assert "#0a0b" not in text, "a placeholder colour was left"
        assert "var(--s1)" in text and "DejaVu" not in text
        assert root.findall(f".//{SVG}text"), "letters stay letters"


def test_ids_of_different_figures_do_not_collide_and_references_hold():
    seen: set[str] = set()
    for text in figures():
        ids = re.findall(r'\bid="([^"]+)"', text)
        assert len(ids) == len(set(ids)) and not seen & set(ids)
        seen |= set(ids)
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', text)) <= set(ids)


def test_the_same_figure_twice_is_the_same_text():
    assert figures() == figures()


def test_a_long_run_is_thinned_by_means():
    steps = np.arange(10_000.0)
    thin_steps, thin = plots._thin(steps, np.tile([0.0, 2.0], 5000))
    assert len(thin) == len(thin_steps) <= plots.MAX_POINTS
    np.testing.assert_allclose(thin, 1.0, atol=0.1)
    assert np.all(np.diff(thin_steps) > 0)
    assert len(plots._thin(steps[:300], steps[:300])[0]) == 300


def test_a_waveform_lies_under_its_time():
    """Sound in the third quarter only: that is where the drawn area is tall."""
    audio = np.zeros(24000, np.float32)
    audio[12000:18000] = np.random.default_rng(0).uniform(-1, 1, 6000)
    root = ElementTree.fromstring(plots.waveform(audio, 24000, 1.0, [0.5], alt="alt"))
    width = float(root.get("viewBox").split()[2])
    filled = [path.get("d") for path in root.iter(f"{SVG}path") if "--s1" in (path.get("style") or "")]
    filled += [p.get("d") for group in root.iter(f"{SVG}defs") for p in group.iter(f"{SVG}path") if p.get("d")]
    points = np.array(
        [[float(x), float(y)] for x, y in re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", max(filled, key=len))]
    )
    middle = np.median(points[:, 1])
    tall = points[np.abs(points[:, 1] - middle) > 0.4 * np.abs(points[:, 1] - middle).max(), 0] / width
    assert 0.49 < tall.min() and tall.max() < 0.76


@pytest.mark.parametrize("count", [0, 5])
def test_too_few_or_too_many_curves(count):
    with pytest.raises(ValueError, match="curves"):
        plots.curves([Curve(str(number), [1], [1]) for number in range(count)], "alt")
