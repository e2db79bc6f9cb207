"""DreamTalk against recorded outputs of the original with regenerable weights; tolerances from the goldens' README."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from empatheia_jax.encoders.hubert import normalise_waveform
from empatheia_jax.generators.classical.portrait import read_portrait
from empatheia_jax.generators.dreamtalk import alignment, diffusion, motion, renderer
from empatheia_jax.generators.dreamtalk.encoders import audio_window_index, mish
from empatheia_jax.generators.dreamtalk.renderer import average_pool, to_uint8, upsample_nearest
from empatheia_jax.generators.dreamtalk.transformer import position_table
from empatheia_jax.generators.layers import Conv, ConvTranspose
from support.comparison import channels_last, run_compiled
from support.dreamtalk_goldens import FOLDERS, build, build_wav2vec, load


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request, goldens):
    """Return the folder of each set of goldens; the second holds real media and is not in the repository."""
    for root in (goldens, goldens.parents[1].parent / "shared" / "goldens"):
        if (root / request.param).is_dir():
            return root / request.param
    if request.param == FOLDERS[0]:
        pytest.fail(f"{goldens}: no {FOLDERS[0]} goldens to compare with")
    pytest.skip(f"no {request.param} goldens here: they hold real media")


@pytest.fixture(scope="module")
def network(folder, goldens):
    """Return a function of a part to its network, built once, with the salt of the folder's files."""
    salt = load(folder, "denoiser_ddim")[1]["salt"]
    return functools.cache(lambda part: build(goldens, folder, part, salt))


def relative_error(actual, expected) -> float:
    """Return the largest difference over the root mean square of `expected`."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{actual.shape} is not {expected.shape}"
    return float(np.abs(actual - expected).max() / np.sqrt(np.mean(np.square(expected))))


def pad_clip(clip: np.ndarray, frames: int = 256) -> np.ndarray:
    return np.pad(clip[:frames], ((0, max(0, frames - len(clip))), (0, 0)))


# Audio ---------------------------------------------------------------------------------------------------------------


def test_wav2vec2(folder, goldens):
    golden, _ = load(folder, "wav2vec2_small")
    waveform = normalise_waveform(golden["in/pcm16"].astype(np.float32) / 32768)
    np.testing.assert_allclose(waveform[:64], golden["out/normalized_first64"], atol=1e-5)
    padded = np.zeros((1, len(waveform) + 5000), np.float32)
    padded[0, : len(waveform)] = waveform
    wav2vec = build_wav2vec(goldens, folder)
    features = run_compiled(lambda x, n: wav2vec(x, n)[0], padded, np.array([len(waveform)], np.int32))
    assert relative_error(features[0, : len(golden["out/last_hidden"])], golden["out/last_hidden"]) <= 1e-4


# Encoders -------------------------------------------------------------------------------------------------------------


def test_content_encoder(folder, network):
    golden, _ = load(folder, "content_encoder")
    index = audio_window_index(len(golden["in/audio_feat"]), golden["out/content"].shape[1])
    np.testing.assert_array_equal(index, golden["out/audio_window_rows"])
    np.testing.assert_allclose(position_table(11, 256), golden["out/pos_table_11"], atol=1e-6)
    encoder = network("denoiser").content_encoder
    assert relative_error(run_compiled(encoder, golden["in/audio_feat"], index), golden["out/content"]) <= 1e-4


def test_style_encoder(folder, network):
    golden, _ = load(folder, "style_encoder")
    encoder = network("denoiser").style_encoder
    clips = [golden["in/style_clip"], golden["in/style_clip2"], golden["in/style_clip_long"]]
    codes = run_compiled(
        encoder, np.stack([pad_clip(clip) for clip in clips]), np.array([min(len(clip), 256) for clip in clips])
    )
    assert relative_error(codes[0], golden["out/style_code"]) <= 1e-4
    assert relative_error(codes[:2], golden["out/style_code_batch"]) <= 1e-4
    assert relative_error(codes[2], golden["out/style_code_long"]) <= 1e-4
    assert relative_error(run_compiled(encoder.null)[0], golden["out/null_style_code"]) <= 1e-4


# Diffusion ------------------------------------------------------------------------------------------------------------


def encode_content(folder, network):
    golden, _ = load(folder, "content_encoder")
    index = audio_window_index(len(golden["in/audio_feat"]), 11)
    return run_compiled(network("denoiser").content_encoder, golden["in/audio_feat"], index)


def encode_styles(folder, network):
    golden, _ = load(folder, "style_encoder")
    encoder, clips = network("denoiser").style_encoder, (golden["in/style_clip"], golden["in/style_clip2"])
    return run_compiled(encoder, np.stack([pad_clip(clip) for clip in clips]), np.array([len(clip) for clip in clips]))


def test_one_step(folder, network):
    golden, _ = load(folder, "denoiser_step")
    denoiser, content, style = network("denoiser"), encode_content(folder, network), encode_styles(folder, network)
    assert relative_error(style, golden["trace/style_code"]) <= 1e-4
    assert relative_error(run_compiled(denoiser.time, golden["in/t"]), golden["trace/time_embed"]) <= 1e-4
    x0 = run_compiled(denoiser, golden["in/x_t"], golden["in/t"], content[golden["in/frame_index"]], style)
    assert relative_error(x0, golden["out/x0"]) <= 1e-4
    content, code = golden["in/decoder_content"][0], golden["in/decoder_style_code"]
    decoded = run_compiled(denoiser.decoder, content, np.repeat(code, len(content), axis=0))
    assert relative_error(decoded[None], golden["out/decoder_alone"]) <= 1e-4


def test_ddim(folder, network):
    golden, meta = load(folder, "denoiser_ddim")
    denoiser, content, style = network("denoiser"), encode_content(folder, network), encode_styles(folder, network)[:1]
    np.testing.assert_allclose(diffusion.alpha_bars(), golden["schedule/alpha_bars"], rtol=3e-5)
    for steps, name in zip(diffusion.ddim_steps(), ("ddim_t", "ddim_t_prev"), strict=True):
        np.testing.assert_array_equal(steps, golden[f"schedule/{name}"])
    noise, frames = golden["in/noise"][None], len(golden["in/noise"])
    null = run_compiled(denoiser.style_encoder.null)

    def sample(style, scale, steps):
        def network(x, t, code):
            return denoiser(x, t, jnp.asarray(content[None, :frames]), code)

        return run_compiled(
            lambda n: diffusion.ddim(diffusion.guided_denoiser(network, null, style, scale), n, steps), noise
        )

    for scale in meta["scales"]:
        motion, path = sample(style, scale, 10)
        assert relative_error(motion[0], golden[f"out/scale{scale}/motion"]) <= 1e-4
        assert relative_error(path[:, 0], golden[f"trace/scale{scale}/x_in"]) <= 1e-4
    assert relative_error(sample(style, 1.0, 5)[0][0], golden["out/no_guidance_5steps/motion"]) <= 1e-4
    code = golden["in/ready_style_code"][None]
    assert relative_error(sample(code, 1.0, 10)[0][0], golden["out/ready_code/motion"]) <= 1e-4


@pytest.mark.slow
def test_ddpm(folder, network):
    golden, meta = load(folder, "denoiser_ddpm")
    denoiser, content, style = (
        network("denoiser"),
        encode_content(folder, network)[:6],
        encode_styles(folder, network)[:1],
    )
    noise = np.random.RandomState(meta["seed"]).standard_normal((1000, 1, *golden["in/x_T"].shape)).astype(np.float32)
    np.testing.assert_array_equal(noise[0, 0], golden["in/x_T"])
    np.testing.assert_array_equal(noise[1, 0], golden["in/z_first"])
    null = run_compiled(denoiser.style_encoder.null)

    def sample(noise):
        def network(x, t, code):
            return denoiser(x, t, jnp.asarray(content[None]), code)

        denoise = diffusion.guided_denoiser(network, null, style, meta["cfg_scale"])
        return diffusion.ddpm(denoise, noise[0], lambda t: noise[1001 - t])

    assert relative_error(run_compiled(sample, noise)[0], golden["out/motion"]) <= 2e-4


# Motion ---------------------------------------------------------------------------------------------------------------


def test_motion(folder):
    golden, meta = load(folder, "motion")
    expression = golden["in/expression"]
    pose = motion.head_pose(golden["in/pose_coeff"], golden["in/pose_transform_params"])
    np.testing.assert_array_equal(pose, golden["out/pose9"])
    full = motion.build_motion(expression, pose)
    np.testing.assert_array_equal(full, golden["out/motion73"])
    short = motion.build_motion(expression, pose[: meta["short_pose_len"]])
    np.testing.assert_array_equal(short, golden["out/motion73_short_pose"])
    np.testing.assert_array_equal(motion.build_motion(expression), golden["out/motion73_no_move"])
    index = motion.window_index(len(expression))
    np.testing.assert_array_equal(index, golden["out/window_index"])
    np.testing.assert_array_equal(full[index][meta["window_frames"]], np.swapaxes(golden["out/windows"], 1, 2))


# Renderer -------------------------------------------------------------------------------------------------------------


def assert_image_close(images: np.ndarray, golden: dict, name: str, tolerance: float = 2e-4) -> None:
    """Compare images [B, H, W, C] of which only some parts and means are recorded."""
    images = np.moveaxis(images, -1, 1)
    assert relative_error(images[:, :, ::4, ::4], golden[f"{name}/stride4"]) <= tolerance
    assert relative_error(images[:1, :, 96:160, 96:160], golden[f"{name}/crop"]) <= tolerance
    assert relative_error(images.mean(axis=-1), golden[f"{name}/row_mean"]) <= tolerance
    assert relative_error(images.mean(axis=-2), golden[f"{name}/col_mean"]) <= tolerance


def test_renderer(folder, network):
    inputs, _ = load(folder, "renderer_motion")
    golden, _ = load(folder, "renderer_image")
    model, windows = network("renderer"), channels_last(inputs["in/windows"])
    image = np.repeat(inputs["in/portrait"][None].astype(np.float32) / 127.5 - 1, len(windows), axis=0)
    code = run_compiled(model.mapping_net, windows)
    assert relative_error(code, inputs["out/descriptor"]) <= 1e-4
    assert (
        relative_error(
            run_compiled(model.mapping_net, channels_last(inputs["in/random_window"])), inputs["out/descriptor_random"]
        )
        <= 1e-4
    )
    flow = run_compiled(model.warpping_net, image, code)
    assert relative_error(flow, channels_last(inputs["out/flow"])) <= 2e-4
    assert (
        relative_error(run_compiled(renderer.deformation, flow)[:, ::4, ::4], inputs["out/deformation_stride4"]) <= 2e-4
    )
    warped = run_compiled(renderer.warp, image, flow)
    assert_image_close(warped, inputs, "out/warp")
    image = run_compiled(model.editing_net, image, warped, code)
    assert_image_close(image, golden, "out/image")
    rounded = np.asarray(to_uint8(jnp.asarray(image[0]))).astype(int)
    difference = np.abs(rounded - golden["out/image_u8"])
    assert difference.max() <= 1 and np.mean(difference > 0) <= 1e-3


@pytest.mark.slow
def test_a_clip_is_rendered(folder, network):
    inputs, _ = load(folder, "renderer_motion")
    golden, _ = load(folder, "renderer_image")
    clip = golden["in/motion3"]
    images = run_compiled(network("renderer"), inputs["in/portrait"], clip[motion.window_index(len(clip))])
    difference = np.abs(images[:, ::8, ::8].astype(int) - golden["out/render3_stride8_u8"])
    assert difference.max() <= 1 and np.mean(difference > 0) <= 1e-3
    np.testing.assert_allclose(images.mean(axis=(1, 2)), golden["out/render3_mean"], atol=0.05)


def test_units(folder):
    golden, _ = load(folder, "units")
    image, flow, feat, code = (golden[f"in/{name}"] for name in ("image", "flow", "feat", "code"))
    image, flow, feat = channels_last(image), channels_last(flow), channels_last(feat)
    deformation = run_compiled(renderer.deformation, flow)
    assert relative_error(deformation, golden["unit/deformation"]) <= 2e-4
    enlarged = run_compiled(lambda x: renderer.resize_bilinear(x, *image.shape[1:3]), deformation)
    assert relative_error(enlarged, golden["unit/deformation_up"]) <= 2e-4
    assert relative_error(run_compiled(renderer.warp, image, flow), channels_last(golden["unit/warp"])) <= 2e-4
    assert (
        relative_error(
            run_compiled(renderer.warp, image[:1], channels_last(golden["in/flow_full"])),
            channels_last(golden["unit/warp_full"]),
        )
        <= 2e-4
    )
    zero_flow = np.zeros((1, *image.shape[1:3], 2), np.float32)
    assert (
        relative_error(run_compiled(renderer.warp, image[:1], zero_flow), channels_last(golden["unit/warp_identity"]))
        <= 2e-4
    )
    norm = renderer.LayerNorm2d(8)
    norm.scale[...], norm.bias[...] = (jnp.asarray(golden[f"in/ln_{n}"][:, 0, 0]) for n in ("weight", "bias"))
    assert relative_error(run_compiled(norm, feat), channels_last(golden["unit/layernorm2d"])) <= 2e-4
    adain = renderer.ADAIN(8, 16, 128)
    for name, part in (
        ("mlp_shared.0", adain.mlp_shared["0"]),
        ("mlp_gamma", adain.mlp_gamma),
        ("mlp_beta", adain.mlp_beta),
    ):
        part.kernel[...] = jnp.asarray(golden[f"in/adain.{name}.weight"].T)
        part.bias[...] = jnp.asarray(golden[f"in/adain.{name}.bias"])
    assert relative_error(run_compiled(adain, feat, code), channels_last(golden["unit/adain"])) <= 2e-4
    upsampling = ConvTranspose(8, 5, (3, 3), stride=2, padding=1, output_padding=1)
    upsampling.kernel[...] = jnp.asarray(np.moveaxis(golden["in/ct_weight"][:, :, ::-1, ::-1], (0, 1), (-2, -1)))
    upsampling.bias[...] = jnp.asarray(golden["in/ct_bias"])
    assert relative_error(run_compiled(upsampling, feat), channels_last(golden["unit/conv_transpose"])) <= 2e-4
    downsampling = Conv(8, 5, (4, 4), stride=2, padding=1)
    downsampling.kernel[...] = jnp.asarray(golden["in/conv4_weight"].transpose(2, 3, 1, 0))
    downsampling.bias[...] = jnp.asarray(golden["in/conv4_bias"])
    assert relative_error(run_compiled(downsampling, feat), channels_last(golden["unit/conv4_stride2"])) <= 2e-4
    for function, name in ((upsample_nearest, "upsample_nearest"), (average_pool, "avg_pool"), (mish, "mish")):
        assert relative_error(run_compiled(function, feat), channels_last(golden[f"unit/{name}"])) <= 2e-4


# Alignment and crops --------------------------------------------------------------------------------------------------


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
    five_points = alignment.points_from_landmarks(golden["in/landmarks68_yup"])
    np.testing.assert_allclose(five_points, golden["out/landmarks5_from_68"], rtol=1e-6)
    blank = np.zeros((480, 640, 3), np.uint8)
    for points, name in ((five_points, "68"), (alignment.fallback_points(640, 480), "noface")):
        np.testing.assert_allclose(
            alignment.align(blank, points).transform, golden[f"out/transform_params_{name}"], rtol=1e-5
        )
    coefficients = run_compiled(network("face3d"), aligned.image[None].astype(np.float32) / 255)
    assert relative_error(coefficients, golden["out/coeff257"]) <= 1e-4


def test_portrait_crop(folder):
    golden, _ = load(folder, "portrait_crop")
    boxes = [
        alignment.crop_box(tuple(map(int, face)), *map(int, hw))
        for face, hw in zip(golden["in/face_boxes"], golden["in/image_hw"], strict=True)
    ]
    np.testing.assert_array_equal(boxes, golden["out/crop_boxes"])
    for path in sorted(folder.glob("portrait_crop_*.png")):
        name = path.stem.removeprefix("portrait_crop_")
        picture, face = read_portrait(path), golden[f"out/{name}/face_box"]
        portrait = alignment.crop_face(picture, tuple(map(int, face)))
        np.testing.assert_array_equal(portrait[::2, ::2], golden[f"out/{name}/crop_rgb_stride2"])
