"""DreamTalk against the original's recorded outputs (under regenerable weights): bounds of their README."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dreamtalk_goldens import FOLDERS, build, build_hearing, load
from small import FAST

from empatheia_jax.encoders.hubert_audio import normalised
from empatheia_jax.generators.classical.portrait import read_portrait
from empatheia_jax.generators.dreamtalk import alignment, crop, grid, motion, norms, sampler
from empatheia_jax.generators.dreamtalk.content_encoder import window_rows
from empatheia_jax.generators.dreamtalk.editing import doubled, halved
from empatheia_jax.generators.dreamtalk.renderer import levels
from empatheia_jax.generators.dreamtalk.style_encoder import mish
from empatheia_jax.generators.dreamtalk.transformer import position_table
from empatheia_jax.generators.layers import Conv, ConvTranspose


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request, goldens):
    """Either set; the second has real media and lies outside the repository."""
    for root in (goldens, goldens.parents[1].parent / "shared" / "goldens"):
        if (root / request.param).is_dir():
            return root / request.param
    if request.param == FOLDERS[0]:
        pytest.fail(f"{goldens}: no {FOLDERS[0]} goldens to compare with")
    pytest.skip(f"no {request.param} goldens here: they hold real media")


@pytest.fixture(scope="module")
def network(folder, goldens):
    """Callable(part) -> the network under the salt of the folder's files, each built once."""
    salt = load(folder, "denoiser_ddim")[1]["salt"]
    return functools.cache(lambda part: build(goldens, folder, part, salt))


def rel(ours, theirs) -> float:
    """Largest difference over the reference's root mean square."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, f"{ours.shape} is not {theirs.shape}"
    return float(np.abs(ours - theirs).max() / np.sqrt(np.mean(np.square(theirs))))


def run(function, *arguments):
    """Compiled, quickly for once; what is returned as numpy."""
    return jax.tree.map(np.asarray, jax.jit(function, compiler_options=FAST)(*arguments))


def last(x: np.ndarray) -> np.ndarray:
    """torch's channels-second [B, C, ...] -> [B, ..., C]."""
    return np.moveaxis(x, 1, -1)


def padded(clip: np.ndarray, frames: int = 256) -> np.ndarray:
    return np.pad(clip[:frames], ((0, max(0, frames - len(clip))), (0, 0)))


# What is heard --------------------------------------------------------------------------------------------------------


def test_wav2vec2(folder, goldens):
    golden, _ = load(folder, "wav2vec2_small")
    waveform = normalised(golden["in/pcm16"].astype(np.float32) / 32768)
    np.testing.assert_allclose(waveform[:64], golden["out/normalized_first64"], atol=1e-5)
    padded = np.zeros((1, len(waveform) + 5000), np.float32)
    padded[0, : len(waveform)] = waveform
    hubert = build_hearing(goldens, folder)
    found = run(lambda x, n: hubert(x, n)[0], padded, np.array([len(waveform)], np.int32))
    assert rel(found[0, : len(golden["out/last_hidden"])], golden["out/last_hidden"]) <= 1e-4


# What is drawn from ---------------------------------------------------------------------------------------------------


def test_content_encoder(folder, network):
    golden, _ = load(folder, "content_encoder")
    rows = window_rows(len(golden["in/audio_feat"]), golden["out/content"].shape[1])
    np.testing.assert_array_equal(rows, golden["out/audio_window_rows"])
    np.testing.assert_allclose(position_table(11, 256), golden["out/pos_table_11"], atol=1e-6)
    encoder = network("denoiser").content_encoder
    assert rel(run(encoder, golden["in/audio_feat"], rows), golden["out/content"]) <= 1e-4


def test_style_encoder(folder, network):
    golden, _ = load(folder, "style_encoder")
    encoder = network("denoiser").style_encoder
    clips = [golden["in/style_clip"], golden["in/style_clip2"], golden["in/style_clip_long"]]
    codes = run(encoder, np.stack([padded(clip) for clip in clips]), np.array([min(len(clip), 256) for clip in clips]))
    assert rel(codes[0], golden["out/style_code"]) <= 1e-4
    assert rel(codes[:2], golden["out/style_code_batch"]) <= 1e-4
    assert rel(codes[2], golden["out/style_code_long"]) <= 1e-4
    assert rel(run(encoder.null)[0], golden["out/null_style_code"]) <= 1e-4


# Diffusion ------------------------------------------------------------------------------------------------------------


def contents(folder, network):
    golden, _ = load(folder, "content_encoder")
    rows = window_rows(len(golden["in/audio_feat"]), 11)
    return run(network("denoiser").content_encoder, golden["in/audio_feat"], rows)


def styles(folder, network):
    golden, _ = load(folder, "style_encoder")
    encoder, clips = network("denoiser").style_encoder, (golden["in/style_clip"], golden["in/style_clip2"])
    return run(encoder, np.stack([padded(clip) for clip in clips]), np.array([len(clip) for clip in clips]))


def test_one_step(folder, network):
    golden, _ = load(folder, "denoiser_step")
    denoiser, content, style = network("denoiser"), contents(folder, network), styles(folder, network)
    assert rel(style, golden["trace/style_code"]) <= 1e-4
    assert rel(run(denoiser.time, golden["in/t"]), golden["trace/time_embed"]) <= 1e-4
    found = run(denoiser, golden["in/x_t"], golden["in/t"], content[golden["in/frame_index"]], style)
    assert rel(found, golden["out/x0"]) <= 1e-4
    alone, code = golden["in/decoder_content"][0], golden["in/decoder_style_code"]
    decoded = run(denoiser.decoder, alone, np.repeat(code, len(alone), axis=0))
    assert rel(decoded[None], golden["out/decoder_alone"]) <= 1e-4


def test_ddim(folder, network):
    golden, meta = load(folder, "denoiser_ddim")
    denoiser, content, style = network("denoiser"), contents(folder, network), styles(folder, network)[:1]
    np.testing.assert_allclose(sampler.alpha_bars(), golden["schedule/alpha_bars"], rtol=3e-5)
    for ours, name in zip(sampler.ddim_steps(), ("ddim_t", "ddim_t_prev"), strict=True):
        np.testing.assert_array_equal(ours, golden[f"schedule/{name}"])
    noise, frames = golden["in/noise"][None], len(golden["in/noise"])
    null = run(denoiser.style_encoder.null)

    def draw(style, scale, steps):
        def network(x, t, code):
            return denoiser(x, t, jnp.asarray(content[None, :frames]), code)

        return run(lambda n: sampler.ddim(sampler.guided(network, null, style, scale), n, steps), noise)

    for scale in meta["scales"]:
        motion, path = draw(style, scale, 10)
        assert rel(motion[0], golden[f"out/scale{scale}/motion"]) <= 1e-4
        assert rel(path[:, 0], golden[f"trace/scale{scale}/x_in"]) <= 1e-4
    assert rel(draw(style, 1.0, 5)[0][0], golden["out/no_guidance_5steps/motion"]) <= 1e-4
    ready = golden["in/ready_style_code"][None]
    assert rel(draw(ready, 1.0, 10)[0][0], golden["out/ready_code/motion"]) <= 1e-4


@pytest.mark.slow
def test_ddpm(folder, network):
    golden, meta = load(folder, "denoiser_ddpm")
    denoiser, content, style = network("denoiser"), contents(folder, network)[:6], styles(folder, network)[:1]
    noise = np.random.RandomState(meta["seed"]).standard_normal((1000, 1, *golden["in/x_T"].shape)).astype(np.float32)
    np.testing.assert_array_equal(noise[0, 0], golden["in/x_T"])
    np.testing.assert_array_equal(noise[1, 0], golden["in/z_first"])
    null = run(denoiser.style_encoder.null)

    def draw(noise):
        def network(x, t, code):
            return denoiser(x, t, jnp.asarray(content[None]), code)

        denoise = sampler.guided(network, null, style, meta["cfg_scale"])
        return sampler.ddpm(denoise, noise[0], lambda t: noise[1001 - t])

    assert rel(run(draw, noise)[0], golden["out/motion"]) <= 2e-4


# Motion ---------------------------------------------------------------------------------------------------------------


def test_motion(folder):
    golden, meta = load(folder, "motion")
    expression = golden["in/expression"]
    pose = motion.pose_of(golden["in/pose_coeff"], golden["in/pose_transform_params"])
    np.testing.assert_array_equal(pose, golden["out/pose9"])
    moved = motion.motion_of(expression, pose)
    np.testing.assert_array_equal(moved, golden["out/motion73"])
    short = motion.motion_of(expression, pose[: meta["short_pose_len"]])
    np.testing.assert_array_equal(short, golden["out/motion73_short_pose"])
    np.testing.assert_array_equal(motion.motion_of(expression), golden["out/motion73_no_move"])
    index = motion.window_index(len(expression))
    np.testing.assert_array_equal(index, golden["out/window_index"])
    np.testing.assert_array_equal(moved[index][meta["window_frames"]], np.swapaxes(golden["out/windows"], 1, 2))


# Renderer -------------------------------------------------------------------------------------------------------------


def assert_parts(pictures: np.ndarray, golden: dict, name: str, bound: float = 2e-4) -> None:
    """A picture [B, H, W, C] that is recorded in strips."""
    pictures = np.moveaxis(pictures, -1, 1)
    assert rel(pictures[:, :, ::4, ::4], golden[f"{name}/stride4"]) <= bound
    assert rel(pictures[:1, :, 96:160, 96:160], golden[f"{name}/crop"]) <= bound
    assert rel(pictures.mean(axis=-1), golden[f"{name}/row_mean"]) <= bound
    assert rel(pictures.mean(axis=-2), golden[f"{name}/col_mean"]) <= bound


def test_renderer(folder, network):
    given, _ = load(folder, "renderer_motion")
    golden, _ = load(folder, "renderer_image")
    renderer, windows = network("renderer"), last(given["in/windows"])
    image = np.repeat(given["in/portrait"][None].astype(np.float32) / 127.5 - 1, len(windows), axis=0)
    code = run(renderer.mapping_net, windows)
    assert rel(code, given["out/descriptor"]) <= 1e-4
    assert rel(run(renderer.mapping_net, last(given["in/random_window"])), given["out/descriptor_random"]) <= 1e-4
    flow = run(renderer.warpping_net, image, code)
    assert rel(flow, last(given["out/flow"])) <= 2e-4
    assert rel(run(grid.deformation, flow)[:, ::4, ::4], given["out/deformation_stride4"]) <= 2e-4
    bent = run(grid.warp, image, flow)
    assert_parts(bent, given, "out/warp")
    picture = run(renderer.editing_net, image, bent, code)
    assert_parts(picture, golden, "out/image")
    eight = np.asarray(levels(jnp.asarray(picture[0]))).astype(int)
    apart = np.abs(eight - golden["out/image_u8"])
    assert apart.max() <= 1 and np.mean(apart > 0) <= 1e-3


@pytest.mark.slow
def test_a_clip_is_rendered(folder, network):
    given, _ = load(folder, "renderer_motion")
    golden, _ = load(folder, "renderer_image")
    moved = golden["in/motion3"]
    pictures = run(network("renderer"), given["in/portrait"], moved[motion.window_index(len(moved))])
    apart = np.abs(pictures[:, ::8, ::8].astype(int) - golden["out/render3_stride8_u8"])
    assert apart.max() <= 1 and np.mean(apart > 0) <= 1e-3
    np.testing.assert_allclose(pictures.mean(axis=(1, 2)), golden["out/render3_mean"], atol=0.05)


def test_units(folder):
    golden, _ = load(folder, "units")
    image, flow, feat, code = (golden[f"in/{name}"] for name in ("image", "flow", "feat", "code"))
    image, flow, feat = last(image), last(flow), last(feat)
    bend = run(grid.deformation, flow)
    assert rel(bend, golden["unit/deformation"]) <= 2e-4
    up = run(lambda x: grid.resize_bilinear(x, *image.shape[1:3]), bend)
    assert rel(up, golden["unit/deformation_up"]) <= 2e-4
    assert rel(run(grid.warp, image, flow), last(golden["unit/warp"])) <= 2e-4
    assert rel(run(grid.warp, image[:1], last(golden["in/flow_full"])), last(golden["unit/warp_full"])) <= 2e-4
    still = np.zeros((1, *image.shape[1:3], 2), np.float32)
    assert rel(run(grid.warp, image[:1], still), last(golden["unit/warp_identity"])) <= 2e-4
    norm = norms.LayerNorm2d(8)
    norm.scale[...], norm.bias[...] = (jnp.asarray(golden[f"in/ln_{n}"][:, 0, 0]) for n in ("weight", "bias"))
    assert rel(run(norm, feat), last(golden["unit/layernorm2d"])) <= 2e-4
    adain = norms.ADAIN(8, 16, 128)
    for name, part in (
        ("mlp_shared.0", adain.mlp_shared["0"]),
        ("mlp_gamma", adain.mlp_gamma),
        ("mlp_beta", adain.mlp_beta),
    ):
        part.kernel[...] = jnp.asarray(golden[f"in/adain.{name}.weight"].T)
        part.bias[...] = jnp.asarray(golden[f"in/adain.{name}.bias"])
    assert rel(run(adain, feat, code), last(golden["unit/adain"])) <= 2e-4
    stretch = ConvTranspose(8, 5, (3, 3), stride=2, padding=1, output_padding=1)
    stretch.kernel[...] = jnp.asarray(np.moveaxis(golden["in/ct_weight"][:, :, ::-1, ::-1], (0, 1), (-2, -1)))
    stretch.bias[...] = jnp.asarray(golden["in/ct_bias"])
    assert rel(run(stretch, feat), last(golden["unit/conv_transpose"])) <= 2e-4
    half = Conv(8, 5, (4, 4), stride=2, padding=1)
    half.kernel[...] = jnp.asarray(golden["in/conv4_weight"].transpose(2, 3, 1, 0))
    half.bias[...] = jnp.asarray(golden["in/conv4_bias"])
    assert rel(run(half, feat), last(golden["unit/conv4_stride2"])) <= 2e-4
    for function, name in ((doubled, "upsample_nearest"), (halved, "avg_pool"), (mish, "mish")):
        assert rel(run(function, feat), last(golden[f"unit/{name}"])) <= 2e-4


# Pictures in ----------------------------------------------------------------------------------------------------------


def test_alignment_and_coefficients(folder, network):
    import io

    from PIL import Image

    golden, _ = load(folder, "face_recon")
    photo = np.asarray(Image.open(io.BytesIO(golden["in/photo_jpeg_bytes"].tobytes())).convert("RGB"))
    np.testing.assert_allclose(alignment.STANDARD_FACE, golden["in/lm3d_5"], rtol=1e-6)
    height, width = photo.shape[:2]
    points = golden["in/landmarks5"] * [1, -1] + [0, height - 1]
    aligned = alignment.align(photo, points)
    np.testing.assert_allclose(aligned.transform, golden["out/transform_params"], rtol=1e-5)
    np.testing.assert_array_equal(aligned.image, golden["out/aligned_u8"])
    np.testing.assert_allclose(aligned.points, golden["out/landmarks5_aligned"], atol=1e-3)
    five = alignment.five_points(golden["in/landmarks68_yup"])
    np.testing.assert_allclose(five, golden["out/landmarks5_from_68"], rtol=1e-6)
    blank = np.zeros((480, 640, 3), np.uint8)
    for points, name in ((five, "68"), (alignment.fallback_points(640, 480), "noface")):
        np.testing.assert_allclose(
            alignment.align(blank, points).transform, golden[f"out/transform_params_{name}"], rtol=1e-5
        )
    found = run(network("face3d"), aligned.image[None].astype(np.float32) / 255)
    assert rel(found, golden["out/coeff257"]) <= 1e-4


def test_portrait_crop(folder):
    golden, _ = load(folder, "portrait_crop")
    boxes = [
        crop.crop_box(tuple(map(int, face)), *map(int, hw))
        for face, hw in zip(golden["in/face_boxes"], golden["in/image_hw"], strict=True)
    ]
    np.testing.assert_array_equal(boxes, golden["out/crop_boxes"])
    for path in sorted(folder.glob("portrait_crop_*.png")):
        name = path.stem.removeprefix("portrait_crop_")
        picture, face = read_portrait(path), golden[f"out/{name}/face_box"]
        cut = crop.portrait(picture, tuple(map(int, face)))
        np.testing.assert_array_equal(cut[::2, ::2], golden[f"out/{name}/crop_rgb_stride2"])
