"""ONNX files and Kokoro: graphs that ONNX Runtime quantised, by the names of the published export, at small sizes."""

import json
import sys

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper

from converters import kokoro
from converters.__main__ import main
from converters.kokoro_voices import mean_voices
from converters.onnx_files import read_weights
from converters.tensors import ConversionError
from empatheia_jax.checkpoints.weights import read_arrays, read_metadata
from support import small_kokoro


@pytest.fixture
def arrays(monkeypatch, seed):
    small_kokoro.use_small_sizes(monkeypatch)
    return small_kokoro.tensors(seed)


@pytest.fixture
def float_file(arrays, tmp_path):
    onnx.save(small_kokoro.float_model(arrays), tmp_path / "kokoro.onnx")
    return tmp_path / "kokoro.onnx"


# Weights --------------------------------------------------------------------------------------------------------------


def test_float_weights_of_the_graph_are_the_state_dict(arrays, float_file):
    weights = read_weights(float_file, kokoro.rename)
    extra = {"decoder.generator.stft.istft.stft.window_sum"}
    assert weights.tensors.keys() == arrays.keys() | extra
    for name, array in arrays.items():
        assert weights.tensors[name].shape == array.shape
        np.testing.assert_array_equal(weights.tensors[name].read(), array, err_msg=name)


@pytest.mark.parametrize("per_channel", [True, False])
def test_quantised_weights_are_within_half_a_step_of_the_floats(per_channel, arrays, tmp_path):
    model = small_kokoro.quantized_model(small_kokoro.float_model(arrays), tmp_path, per_channel=per_channel)
    kinds = {node.op_type for node in model.graph.node}
    assert {"ConvInteger", "MatMulInteger", "DynamicQuantizeLSTM", "DequantizeLinear"} <= kinds
    weights = read_weights(tmp_path / "int8.onnx", kokoro.rename)
    assert weights.tensors.keys() >= arrays.keys()
    coarse = 0
    for name, array in arrays.items():
        tensor = weights.tensors[name]
        assert tensor.shape == array.shape and tensor.dtype == np.float32
        error = np.abs(tensor.read() - array).max()
        step = 2 * np.abs(array).max() / 254  # the largest of a tensor's or a channel's
        if "lstm" in name or "shared" in name:  # input and recurrent weights have a scale for both directions
            step = max(2 * np.abs(array).max(), 2.5) / 254
        assert error <= 0.51 * step, name
        coarse += error > 0
    assert coarse > 40  # so many are quantised


def test_every_array_is_converted_and_every_constant_named(arrays, float_file, tmp_path, capfd):
    small_kokoro.quantized_model(onnx.load(float_file), tmp_path, per_channel=True)
    output = tmp_path / "out"
    assert main(["kokoro", "--input", str(tmp_path / "int8.onnx"), "--output", str(output)]) == 0
    report = capfd.readouterr().out
    assert f"{len(arrays)} tensors, 1 left aside" in report and "constants of the graph" in report
    metadata = read_metadata(output)
    constants = metadata["source"]["config"]["graph_constants"]
    assert constants["the window of the Fourier transform"] == ["/decoder/decoder/generator/Constant_17_output_0"]
    assert "/decoder/decoder/generator/m_source/l_sin_gen/Constant_output_0" in sum(constants.values(), [])
    assert metadata["architecture"]["style_networks"] is False
    written = dict(read_arrays(output))
    kernel = written["predictor/duration_proj/linear_layer/kernel"]
    expected = arrays["predictor.duration_proj.linear_layer.weight"].T
    assert np.abs(kernel - expected).max() <= np.abs(expected).max() / 100
    assert not any(name.startswith(("diffusion", "style_encoder", "predictor_encoder")) for name in written)
    # The same arrays, not quantised, are in the graph that the quantiser read.
    opened = kokoro.open_files(float_file)
    assert {entry.name for entry in opened.fits} == written.keys()


def test_an_lstm_out_of_the_graph_computes_in_torch_what_it_computes_in_onnx_runtime(tmp_path, seed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    width, hidden, steps = 5, 4, 7
    weights = [rng.normal(size=size).astype(np.float32) for size in ((2, 16, width), (2, 16, hidden), (2, 32))]
    names = ["onnx::LSTM_1", "onnx::LSTM_2", "onnx::LSTM_3"]
    node = helper.make_node(
        "LSTM", ["x", *names], ["y"], "/net/lstm/LSTM", direction="bidirectional", hidden_size=hidden
    )
    graph = helper.make_graph(
        [node],
        "lstm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (steps, 1, width))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (steps, 2, 1, hidden))],
        [numpy_helper.from_array(array, name) for array, name in zip(weights, names, strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "lstm.onnx")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = rng.normal(size=(steps, 1, width)).astype(np.float32)
    expected = session.run(None, {"x": x})[0].transpose(0, 2, 1, 3).reshape(steps, 1, 2 * hidden)
    twin = torch.nn.LSTM(width, hidden, bidirectional=True)
    tensors = read_weights(tmp_path / "lstm.onnx", lambda name: name.removeprefix("net.lstm.")).tensors
    twin.load_state_dict({name: torch.from_numpy(tensor.read().copy()) for name, tensor in tensors.items()})
    with torch.no_grad():
        np.testing.assert_allclose(twin(torch.from_numpy(x))[0].numpy(), expected, atol=1e-6)


def test_an_initialiser_that_nothing_explains_is_refused_by_name(float_file, tmp_path, capfd):
    model = onnx.load(float_file)
    stray = numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(3, 4), "/decoder/Mystery_output_0")
    model.graph.initializer.append(stray)
    onnx.save(model, tmp_path / "stray.onnx")
    assert main(["kokoro", "--input", str(tmp_path / "stray.onnx"), "--output", str(tmp_path / "out")]) == 2
    error = capfd.readouterr().err
    assert "no known constant: /decoder/Mystery_output_0 [3, 4]" in error and not (tmp_path / "out").exists()


def test_without_the_package_the_error_names_the_extra(float_file, tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["kokoro", "--input", str(float_file), "--output", str(tmp_path / "out")]) == 2
    assert "needs onnx: pip install 'empatheia-jax[trained]'" in capfd.readouterr().err


# The published .pth ---------------------------------------------------------------------------------------------------


def test_the_published_layout_gives_the_same_arrays(arrays, float_file, tmp_path):
    pytest.importorskip("torch")

    def add_export_norm(networks):
        import torch

        networks["decoder"]["module.encode.norm1.norm.weight"] = torch.ones(18)

    path = small_kokoro.write_pth(tmp_path / "kokoro-v1_0.pth", arrays, add_export_norm)
    first, second = kokoro.open_files(path), kokoro.open_files(float_file)
    assert len(first.tensors) - len({name for entry in first.fits for name in entry.sources}) == 3  # pooler, that norm
    converted = {entry.name: entry.read(second.tensors) for entry in second.fits}
    assert {entry.name for entry in first.fits} == converted.keys()
    for entry in first.fits:
        array = entry.read(first.tensors)
        np.testing.assert_allclose(array, converted[entry.name], rtol=2e-6, atol=1e-7, err_msg=entry.name)


def test_a_norm_that_would_change_something_is_refused(arrays, tmp_path, capfd):
    torch = pytest.importorskip("torch")

    def change(networks):
        networks["decoder"]["module.encode.norm1.norm.weight"] = torch.full((18,), 1.5)
        del networks["predictor"]["module.lstm.bias_hh_l0"]

    path = small_kokoro.write_pth(tmp_path / "kokoro-v1_0.pth", arrays, change)
    assert main(["kokoro", "--input", str(path), "--output", str(tmp_path / "out")]) == 2
    error = capfd.readouterr().err
    assert "decoder.encode.norm1.norm.weight is not 1" in error and "predictor.lstm.bias_hh_l0 is missing" in error


# Voices ---------------------------------------------------------------------------------------------------------------


def test_voices_become_a_table_of_mean_rows(float_file, tmp_path, seed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    tables = {name: rng.normal(size=(510, 256)).astype(np.float32) for name in ("af_one", "bm_two")}
    folder = tmp_path / "voices"
    folder.mkdir()
    tables["af_one"].tofile(folder / "af_one.bin")
    torch.save(torch.from_numpy(tables["bm_two"][:, None]), folder / "bm_two.pt")
    (folder / "README.md").write_text("voices")
    command = ["kokoro", "--input", str(float_file), "--voices", str(folder), "--output", str(tmp_path / "out")]
    assert main(command) == 0
    with np.load(tmp_path / "out" / "voices.npz", allow_pickle=False) as written:
        assert set(written.files) == set(tables)
        for name, table in tables.items():
            np.testing.assert_allclose(written[name], table.mean(axis=0), atol=1e-6)
            assert written[name].dtype == np.float32


@pytest.mark.parametrize("how", ["short", "not finite", "shape", "twice", "none", "no folder", "not a tensor"])
def test_voices_that_are_none_are_refused_by_name(how, float_file, tmp_path, capfd):
    torch = pytest.importorskip("torch")
    folder, table = tmp_path / "voices", np.ones((510, 256), np.float32)
    folder.mkdir()
    table.tofile(folder / "good.bin")
    if how == "short":
        table[:509].tofile(folder / "af_bad.bin")
    elif how == "not finite":
        table[3, 4] = np.nan
        table.tofile(folder / "af_bad.bin")
    elif how == "shape":
        torch.save(torch.ones(510, 256), folder / "af_bad.pt")
    elif how == "twice":
        torch.save(torch.ones(510, 1, 256), folder / "good.pt")
    elif how == "not a tensor":
        torch.save({"a": torch.ones(3)}, folder / "af_bad.pt")
    elif how == "none":
        (folder / "good.bin").rename(folder / "good.txt")
    given = tmp_path / "nowhere" if how == "no folder" else folder
    command = ["kokoro", "--input", str(float_file), "--voices", str(given), "--output", str(tmp_path / "out")]
    assert main(command) == 2
    error = capfd.readouterr().err
    expected = {"twice": "good is there twice", "none": "no NAME.bin", "no folder": "not a folder of voices"}
    assert expected.get(how, "af_bad.") in error and error.count("\n") == 1
    assert not list(tmp_path.glob("out*"))


def test_the_converter_alone_may_be_asked_for_voices(tmp_path):
    with pytest.raises(ConversionError, match="not a folder"):
        mean_voices(tmp_path / "absent")


def test_verify_needs_an_export_and_weights_of_kokoro(float_file, arrays, tmp_path, capfd):
    assert main(["kokoro", "--input", str(float_file), "--output", str(tmp_path / "out")]) == 0
    (tmp_path / "kokoro.pth").write_bytes(b"")
    for source, message in ((tmp_path / "kokoro.pth", "runs an ONNX export"), (float_file, "not the graph of Kokoro")):
        assert main(["kokoro", "--input", str(source), "--output", str(tmp_path / "out"), "--verify"]) == 2
        assert message in capfd.readouterr().err
    assert json.loads((tmp_path / "out" / "config.json").read_text())["family"] == "kokoro"
