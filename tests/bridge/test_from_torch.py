"""torch in JAX: bitwise equal values, torch's gradients, no aliasing, no growth of memory."""

import gc
import resource

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from empatheia_jax.generators.bridge import BridgeError, copies, from_torch, last_error, reset_copies
from empatheia_jax.testing.tiny import compilations


class Cubed(torch.autograd.Function):
    """A function with a hand-written derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.from_numpy(np.power(x.detach().numpy(), 3))

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient.mul_(3).mul_(x * x)  # in place, which must not change memory of JAX arrays


class Attention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class Lstm(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(8, 6, batch_first=True, bidirectional=True)

    def forward(self, x):
        return self.lstm(x)[0]


MODULES = {
    "convolution": lambda: torch.nn.Sequential(torch.nn.Conv1d(5, 7, 3), torch.nn.GELU()),
    "lstm": Lstm,
    "attention": Attention,
    "weight_norm": lambda: torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(8, 4)),
    "custom": lambda: Cubed.apply,
    "in_place": lambda: torch.nn.Sequential(torch.nn.ReLU(inplace=True), torch.nn.Linear(8, 3)),
    "batch_norm": lambda: torch.nn.BatchNorm1d(5),
}


def make_module(name: str, seed: int):
    torch.manual_seed(seed)
    module = MODULES[name]()
    return module


def draw(seed: int, *shape, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def torch_value_and_gradient(module, x: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the value, and the gradient of its weighted sum, by torch alone."""
    leaf = torch.from_numpy(x.copy()).requires_grad_()
    result = module(leaf.clone())
    (gradient,) = torch.autograd.grad((result * torch.from_numpy(weight)).sum(), leaf)
    return result.detach().numpy(), gradient.numpy()


@pytest.mark.parametrize("name", MODULES)
def test_values_to_the_last_bit_and_gradients_as_torchs(name, seed):
    x = draw(seed, 3, 5, 8)
    module = make_module(name, seed)
    weight = draw(seed + 1, *module(torch.from_numpy(x.copy())).shape)
    value, gradient = torch_value_and_gradient(make_module(name, seed), x, weight)
    array = jnp.asarray(x)
    for transform in (lambda f: f, jax.jit):
        bridged = from_torch(make_module(name, seed))
        np.testing.assert_array_equal(transform(bridged)(array), value)

        def total(x, bridged=bridged):
            return (bridged(x) * weight).sum()

        result = transform(jax.grad(total))(array)
        assert np.abs(result - gradient).max() <= 1e-6 * max(1.0, np.abs(gradient).max())
        np.testing.assert_array_equal(array, x)
    np.testing.assert_array_equal(from_torch(make_module(name, seed), copy=True)(array), value)


@pytest.mark.parametrize("name", [name for name in MODULES if name != "in_place"])
def test_gradients_by_finite_differences_in_float64(name, seed):
    x = draw(seed, 2, 5, 8, dtype=np.float64)
    module = make_module(name, seed)
    if isinstance(module, torch.nn.Module):
        module = module.double()
    step = 1e-6
    with jax.enable_x64(True):
        bridged = from_torch(module)
        result = bridged(jnp.asarray(x))
        assert result.dtype == jnp.float64
        weight, direction = draw(seed + 1, *result.shape, dtype=np.float64), draw(seed + 2, *x.shape, dtype=np.float64)

        def total(x):
            return (bridged(x) * weight).sum()

        slope = jax.jit(jax.grad(total))(jnp.asarray(x))
        assert slope.dtype == jnp.float64
        measured = (total(jnp.asarray(x + step * direction)) - total(jnp.asarray(x - step * direction))) / (2 * step)
    assert float(measured) == pytest.approx(float((np.asarray(slope) * direction).sum()), rel=1e-6, abs=1e-7)


def test_trees_numbers_and_what_has_no_gradient(seed):
    """Arguments are a dict, a tuple, None, integers, booleans and a Python number; the result is a nested tree."""

    def function(batch, pair, none, times=1.0):
        assert none is None
        x, (index, keep) = batch["x"], pair
        return {"rows": x[index] * times, "count": (keep.sum(), None), "kept": torch.where(keep, x, 0.0)}

    x, index = draw(seed, 4, 3), np.array([2, 0, 2], np.int32)
    keep = np.array([[True], [False], [True], [True]])
    bridged = from_torch(function)

    def call(x):
        return bridged({"x": x}, (jnp.asarray(index), keep), None, times=3.0)

    for transform in (lambda f: f, jax.jit):
        result = transform(call)(jnp.asarray(x))
        np.testing.assert_array_equal(result["rows"], x[index] * 3)
        assert result["count"][1] is None and result["count"][0] == 3 and result["count"][0].dtype == jnp.int32
        np.testing.assert_array_equal(result["kept"], np.where(keep, x, 0))
        slope = transform(jax.grad(lambda x: call(x)["rows"].sum() + call(x)["kept"].sum()))(jnp.asarray(x))
        expected = 3.0 * np.array([1, 0, 2, 0])[:, None] + keep
        np.testing.assert_allclose(slope, np.broadcast_to(expected, x.shape))
    assert not np.any(jax.grad(lambda x: from_torch(lambda x: x.detach())(x).sum())(jnp.asarray(x)))
    index_slope = jax.grad(lambda i, x: bridged({"x": x}, (i, keep), None)["rows"].sum(), allow_int=True)
    assert index_slope(jnp.asarray(index), jnp.asarray(x)).dtype == jax.dtypes.float0


def test_parameters_that_are_passed_have_gradients(seed):
    torch.manual_seed(seed)
    module = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
    x = draw(seed, 4, 6)
    params = {name: jnp.array(p.detach().numpy()) for name, p in module.named_parameters()}
    bridged = from_torch(lambda params, x: torch.func.functional_call(module, params, (x,)))
    result = jax.jit(jax.grad(lambda params, x: (bridged(params, x) ** 2).sum()))(params, x)
    (module(torch.from_numpy(x)) ** 2).sum().backward()
    for name, parameter in module.named_parameters():
        np.testing.assert_allclose(result[name], parameter.grad, rtol=1e-5, atol=1e-6)


DTYPES = ("float32", "bfloat16", "float16", "int8", "int16", "int32", "uint8", "bool", "complex64")


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_passes_through(dtype, seed):
    expected_dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    x = (draw(seed, 6, 4) * 5).astype(expected_dtype)
    for array in (jnp.asarray(x), x):
        for transform in (lambda f: f, jax.jit):
            dtypes = []
            result = transform(from_torch(lambda t, dtypes=dtypes: (dtypes.append(str(t.dtype)), t.t())[1]))(array)
            assert result.dtype == expected_dtype and set(dtypes) == {f"torch.{dtype}"}
            np.testing.assert_array_equal(np.asarray(result).view(np.uint8), np.ascontiguousarray(x.T).view(np.uint8))
    assert from_torch(lambda: torch.tensor(3, dtype=torch.int64))().dtype == jnp.int32
    assert jax.jit(from_torch(lambda: torch.tensor(3.0, dtype=torch.float64)))().dtype == jnp.float32


def test_complex_gradients_follow_jax(seed):
    x = (draw(seed, 5) + 1j * draw(seed + 1, 5)).astype(np.complex64)

    def plain(x):
        return jnp.abs(x * x + (1 + 2j) * x).sum()

    bridged = from_torch(lambda x: x * x + (1 + 2j) * x)
    result = jax.grad(lambda x: jnp.abs(bridged(x)).sum())(jnp.asarray(x))
    np.testing.assert_allclose(result, jax.grad(plain)(jnp.asarray(x)), rtol=2e-6, atol=1e-5)


def test_vmap_and_loops(seed):
    module = make_module("convolution", seed)
    x = draw(seed, 4, 2, 5, 8)
    expected = np.stack([module(torch.from_numpy(example)).detach().numpy() for example in x])
    bridged = from_torch(module)
    for transform in (lambda f: f, jax.jit):
        np.testing.assert_array_equal(transform(jax.vmap(bridged))(jnp.asarray(x)), expected)
    slopes = jax.jit(jax.vmap(jax.grad(lambda x: bridged(x).sum())))(jnp.asarray(x))
    weight = np.ones((2, 7, 6), np.float32)
    for example, slope in zip(x, slopes, strict=True):
        np.testing.assert_allclose(slope, torch_value_and_gradient(module, example, weight)[1], atol=1e-6)
    last, every = jax.jit(
        lambda x: jax.lax.scan(lambda c, example: (c + bridged(example), c), jnp.zeros((2, 7, 6)), x)
    )(x)
    np.testing.assert_allclose(last, expected.sum(axis=0), rtol=1e-5, atol=1e-6)


# Memory ---------------------------------------------------------------------------------------------------------------


def test_nothing_is_copied_where_that_is_safe():
    x, addresses = jnp.arange(64.0).reshape(8, 8), []

    def double(t):
        result = t * 2
        addresses.extend([t.data_ptr(), result.data_ptr()])
        return result

    reset_copies()
    result = from_torch(double)(x)
    assert addresses == [x.unsafe_buffer_pointer(), result.unsafe_buffer_pointer()]
    assert (copies().to_torch, copies().to_jax, copies().bytes) == (0, 0, 0)
    from_torch(lambda t: (t * 2).t())(x)  # a layout that JAX does not support
    assert (copies().to_torch, copies().to_jax, copies().bytes) == (0, 1, 256)


def keeping_arguments(store: list):
    def function(t):
        store.append(t[1:])
        return t.sum()

    return function


def test_torch_cannot_change_an_array():
    """Writes in place: to arguments, to views of them, to tensors kept after the call; by lists and by out=."""
    writes = {
        "add_": lambda t: t.add_(1),
        "view": lambda t: t.view(-1)[3:].mul_(2),
        "index": lambda t: t.__setitem__(0, 9.0),
        "out": lambda t: torch.add(t, 1, out=t),
        "data": lambda t: t.data.zero_(),
        "relu": torch.relu_,
        "list": lambda t: torch._foreach_add_([t], 1),
        "copy_": lambda t: t.copy_(t + 1),
        "no_grad": lambda t: torch.no_grad()(torch.Tensor.exp_)(t),
        "set": lambda t: t.t_().add_(1),
        "script": torch.jit.script(_scripted),
    }
    before = np.linspace(-2, 2, 64, dtype=np.float32).reshape(8, 8)
    x = jnp.asarray(before)
    for name, write in writes.items():
        expected = torch.from_numpy(before.copy())
        write(expected)
        bridged = from_torch(lambda t, write=write: (write(t), t)[1])
        for transform in (lambda f: f, jax.jit, lambda f: f):
            np.testing.assert_array_equal(transform(bridged)(x), expected.numpy(), err_msg=name)
            np.testing.assert_array_equal(x, before, err_msg=name)
    failing: list = []

    def keeps_and_fails(t):
        failing.append(t)
        raise LookupError

    with pytest.raises(LookupError):
        from_torch(keeps_and_fails)(x)
    failing[0].zero_()
    np.testing.assert_array_equal(x, before)
    store: list = []
    keeping = from_torch(keeping_arguments(store))
    for transform in (lambda f: f, jax.jit, lambda f: f):
        transform(keeping)(x)
        store[-1].zero_()
        np.testing.assert_array_equal(x, before)


def _scripted(t: torch.Tensor):
    return t.add_(3.0)


def test_torch_cannot_change_its_results_afterwards():
    buffer = torch.zeros(16)
    held: list = []
    counting = from_torch(lambda: buffer.add_(1))
    first, second = counting(), counting()
    assert np.all(first == 1) and np.all(second == 2)
    fresh = from_torch(lambda: (held.append(torch.ones(16)), held[-1])[1])()
    part = from_torch(lambda: (held.append(torch.ones(16)), held[-1][4:])[1])()
    array = np.ones(16, np.float32)
    numpy = from_torch(lambda: torch.from_numpy(array))()
    for tensor in held:
        tensor.zero_()
    array[:] = 0
    for array in (fresh, part, numpy):
        assert np.all(array == 1)
    twice = from_torch(lambda t: (t, t))(first)
    assert np.all(twice[0] == 1) and np.all(twice[1] == 1)


def test_a_second_forward_updates_nothing_and_draws_the_same(seed):
    norm = torch.nn.BatchNorm1d(8)
    x = jnp.asarray(draw(seed, 16, 8))
    jax.grad(lambda x: (from_torch(norm)(x) ** 2).sum())(x)
    assert norm.num_batches_tracked == 1
    drop = from_torch(lambda t: torch.nn.functional.dropout(t, 0.5, training=True))
    for transform in (lambda f: f, jax.jit):
        torch.manual_seed(seed)
        value, back = jax.vjp(transform(drop), jnp.ones((40, 40)))
        (slope,) = back(jnp.ones((40, 40)))
        np.testing.assert_array_equal(slope, value)  # 2 where dropout keeps the value, 0 elsewhere
        assert set(np.unique(value)) == {0.0, 2.0}


@pytest.mark.slow
def test_ten_thousand_calls_neither_grow_nor_compile(seed):
    x = jnp.asarray(draw(seed, 2, 5, 64))
    bridged = from_torch(lambda t: torch.tanh(t) * 2)
    inside, slope = jax.jit(bridged), jax.jit(jax.grad(lambda x: bridged(x).sum()))

    def calls(count):
        for _ in range(count):
            bridged(x)
        for _ in range(count // 10):
            jax.block_until_ready((inside(x), slope(x), jax.grad(lambda x: bridged(x).sum())(x)))

    calls(200)
    gc.collect()
    live, used = len(jax.live_arrays()), _resident()
    with compilations("compile", "trace") as compiled:
        for _ in range(9800):
            bridged(x)
        for _ in range(200):
            jax.block_until_ready((inside(x), slope(x)))
    assert not compiled
    gc.collect()
    assert len(jax.live_arrays()) <= live
    assert _resident() - used < 10e6  # a result has 2.5 kB: if they were kept, they would take 25 MB


def _resident() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


# Errors ---------------------------------------------------------------------------------------------------------------


def test_errors_of_torch():
    def fussy(t):
        if t.sum() > 5:
            raise LookupError("too much of it")
        return t

    bridged, x = from_torch(fussy), jnp.full(8, 1.0)
    with pytest.raises(LookupError, match="too much of it"):
        bridged(x)
    with pytest.raises(jax.errors.JaxRuntimeError, match="LookupError: too much of it"):
        jax.block_until_ready(jax.jit(bridged)(x))
    assert isinstance(last_error(), LookupError) and last_error().args == ("too much of it",)
    np.testing.assert_array_equal(jax.jit(bridged)(x / 2), x / 2)  # later calls succeed


def test_what_cannot_cross_is_told():
    x = jnp.ones(3)
    for function, args, message in (
        (lambda t: "text", (x,), "torch returned a str"),
        (lambda t: t, (jax.random.key(0),), "key of random numbers"),
        (lambda t: t, (x.astype(jnp.int4),), "torch has no int4"),
    ):
        with pytest.raises(BridgeError, match=message):
            from_torch(function)(*args)
    with pytest.raises(BridgeError, match="must be hashable"):
        jax.jit(lambda x: from_torch(lambda t, o: t)(x, {1, 2}))(x)
    with pytest.raises(BridgeError, match="LinAlgError: .*pass shapes="):
        jax.jit(from_torch(lambda t: torch.linalg.inv(t)))(jnp.eye(3))
    inverse = from_torch(lambda t: torch.linalg.inv(t), shapes=lambda t: t)
    np.testing.assert_allclose(jax.jit(inverse)(2 * jnp.eye(3)), np.eye(3) / 2)
    growing = iter(range(1, 9))
    with pytest.raises(jax.errors.JaxRuntimeError, match="outside of jit"):
        jax.block_until_ready(jax.jit(from_torch(lambda t: torch.zeros(next(growing))))(x))


def test_transformers_outputs_are_dicts(seed):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        vocab_size=20,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    torch.manual_seed(seed)
    model = transformers.LlamaForCausalLM(config).eval()
    ids = np.arange(6, dtype=np.int32)[None]
    expected = model(torch.from_numpy(ids), use_cache=False).logits.detach().numpy()
    bridged = from_torch(lambda ids: model(ids, use_cache=False))
    np.testing.assert_array_equal(bridged(jnp.asarray(ids))["logits"], expected)
    np.testing.assert_array_equal(jax.jit(bridged)(jnp.asarray(ids))["logits"], expected)
