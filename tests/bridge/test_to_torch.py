"""JAX in torch: values of the compiled function, JAX's gradients, also by finite differences; no aliasing."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax import nnx

from empatheia_jax.generators.bridge import BridgeError, copies, from_torch, reset_copies, to_torch
from empatheia_jax.testing.tiny import compilations

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def draw(seed: int, *shape) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def mixed(x, other, *, power=2):
    """Compute a tree, some of whose leaves have no gradient, from tensors, integers and a number."""
    y = jnp.tanh(x["a"]) ** power + other
    return {"y": y, "best": (jnp.argmax(y, axis=-1), None), "many": jnp.sum(y, axis=0)}


def test_values_and_gradients(seed):
    module = to_torch(mixed)
    a, other = draw(seed, 4, 6).requires_grad_(), torch.arange(6)
    result = module({"a": a}, other, power=3)
    expected = jax.jit(mixed, static_argnames="power")({"a": a.detach().numpy()}, np.arange(6, dtype=np.int32), power=3)
    np.testing.assert_array_equal(result["y"].detach(), expected["y"])
    assert result["best"][0].dtype == torch.int32 and not result["best"][0].requires_grad and result["best"][1] is None
    (3 * result["y"].sum() + (result["many"] ** 2).sum()).backward()

    def total(a):
        tree = mixed({"a": a}, np.arange(6), power=3)
        return 3 * tree["y"].sum() + (tree["many"] ** 2).sum()

    np.testing.assert_allclose(a.grad, jax.grad(total)(a.detach().numpy()), rtol=1e-5, atol=1e-6)


def test_the_results_tree_may_depend_on_shapes(seed):
    module = to_torch(lambda x: {f"row{number}": 2 * row for number, row in enumerate(x)})
    two, three = draw(seed, 2, 3).requires_grad_(), draw(seed, 3, 3).requires_grad_()
    for x in (two, three, two, three):
        result = module(x)
        assert set(result) == {f"row{number}" for number in range(len(x))}
        x.grad = None
        (result["row0"] + 3 * result["row1"]).sum().backward()
        assert torch.all(x.grad[0] == 2) and torch.all(x.grad[1] == 6) and not torch.any(x.grad[2:])


def test_without_gradients_none_are_prepared(seed):
    module, x = to_torch(jnp.sin), draw(seed, 5).requires_grad_()
    with torch.no_grad():
        assert not module(x).requires_grad
    (program,) = module._programs.values()
    assert not program._linear and module(x).requires_grad


def test_torch_checks_the_gradients_in_float64(seed):
    with jax.enable_x64(True):
        x = torch.from_numpy(np.random.default_rng(seed).normal(size=(3, 4))).requires_grad_()
        weight = {"w": np.random.default_rng(seed + 1).normal(size=(4, 2)), "step": np.arange(3)}
        module = to_torch(lambda p, x, scale: (jnp.sin(x @ p["w"]) * scale, x**2), weight)
        assert module.w.dtype == torch.float64 and "step" in dict(module.named_buffers())
        assert torch.autograd.gradcheck(lambda x, w: module(x, 2.0), (x, module.w))
        z = torch.complex(x.detach(), x.detach() ** 2).requires_grad_()
        assert torch.autograd.gradcheck(to_torch(lambda z: z * z + jnp.conj(z)), (z,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int8, torch.int32, torch.bool, torch.uint8])
def test_every_dtype_passes_through(dtype, seed):
    x = (draw(seed, 5, 3) * 4).to(dtype)
    result = to_torch(lambda x: x.T)(x)
    assert result.dtype == dtype and torch.equal(result, x.T)
    if dtype.is_floating_point:
        x.requires_grad_()
        to_torch(lambda x: x * 2)(x).sum().backward()
        assert x.grad.dtype == dtype and torch.all(x.grad == 2)


def test_a_flax_module_is_trained_by_torch(seed):
    """Names, state_dict, a torch optimizer and `tree()`; the result is that of JAX's gradients."""

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.layers = nnx.List([nnx.Linear(6, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)])

        def __call__(self, x):
            return self.layers[1](jnp.tanh(self.layers[0](x)))

    graphdef, state = nnx.split(Net(nnx.Rngs(seed)))
    module = to_torch(lambda state, x: nnx.merge(graphdef, state)(x), state)
    assert {"layers.0.kernel", "layers.1.bias"} <= module.state_dict().keys() and len(module.state_dict()) == 4
    x, y = draw(seed, 16, 6), draw(seed + 1, 16, 2)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    reference, before = state, jax.tree.leaves(state)[0].copy()
    for _ in range(3):
        optimizer.zero_grad()
        loss = ((module(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()

        def mean_squared_error(state):
            return jnp.mean((nnx.merge(graphdef, state)(x.numpy()) - y.numpy()) ** 2)

        gradient = jax.grad(mean_squared_error)(reference)
        reference = jax.tree.map(lambda p, g: p - 0.1 * g, reference, gradient)
    for actual, expected in zip(jax.tree.leaves(module.tree()), jax.tree.leaves(reference), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    assert jax.tree.structure(module.tree()) == jax.tree.structure(state)
    np.testing.assert_array_equal(jax.tree.leaves(state)[0], before)  # the optimizer has not changed the arguments
    again = to_torch(lambda state, x: nnx.merge(graphdef, state)(x), state)
    again.load_state_dict(module.state_dict())
    assert torch.equal(again(x), module(x))


# Memory ---------------------------------------------------------------------------------------------------------------


def test_nothing_is_copied_and_nothing_is_shared(seed):
    """Arguments are not copied; results may be changed, also those that are constants or arguments of the function."""
    x, constant = torch.ones(64, 64), jnp.full((4,), 2.0)
    module = to_torch(lambda x: (x * 2, x, constant, constant))
    module(x)
    reset_copies()
    double, same, first, second = module(x)
    assert (copies().to_torch, copies().to_jax) == (0, 0)
    for tensor in (double, same, first):
        tensor.zero_()
    assert torch.all(x == 1) and np.all(constant == 2) and torch.all(second == 2)
    assert np.all(to_torch(lambda: constant)().numpy() == 2)
    params = {"w": jnp.ones(3)}
    trained = to_torch(lambda p, x: p["w"] * x, params)
    with torch.no_grad():
        trained.w.zero_()
    assert np.all(params["w"] == 1)
    snapshot = trained.tree()["w"]
    with torch.no_grad():
        trained.w.add_(5)
    assert np.all(snapshot == 0)
    odd = torch.arange(12.0).reshape(3, 4).t()[:, 1:]  # neither contiguous nor aligned
    assert torch.equal(to_torch(lambda x: x + 0)(odd), odd)


def test_results_changed_in_place_do_not_spoil_gradients(seed):
    """exp uses its result in backward, and torch may write to the result that it was given."""
    x = draw(seed, 8).requires_grad_()
    result = to_torch(jnp.exp)(x)
    expected = result.detach().clone()
    weighted = result * 1.0
    with torch.no_grad():
        result.zero_()
    weighted.sum().backward()
    torch.testing.assert_close(x.grad, expected)


def test_arguments_changed_before_backward_are_told(seed):
    x = draw(seed, 8).requires_grad_()
    y = x * 1
    result = to_torch(lambda x: x**2)(y)
    with torch.no_grad():
        y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.sum().backward()


@pytest.mark.slow
def test_ten_thousand_calls_neither_grow_nor_compile(seed):
    module, x = to_torch(lambda x: jnp.sin(x) * 2), draw(seed, 8, 8).requires_grad_()

    def calls(count):
        for number in range(count):
            result = module(x)
            if number % 10 == 0:
                x.grad = None
                result.sum().backward()

    calls(20)
    gc.collect()
    live = len(jax.live_arrays())

    with compilations("compile", "trace") as compiled:
        calls(10_000)
    gc.collect()
    assert not compiled and len(jax.live_arrays()) <= live


# Errors ---------------------------------------------------------------------------------------------------------------


def test_errors(seed):
    def wrong(x):
        raise LookupError("not this one")

    with pytest.raises(LookupError, match="not this one"):
        to_torch(wrong)(torch.ones(2))
    with pytest.raises(BridgeError, match="must be hashable"):
        to_torch(lambda x, o: x)(torch.ones(2), {1})
    for params in ({"forward": np.ones(2)}, {"train": {"w": np.ones(2)}}):
        with pytest.raises(BridgeError, match="rename it"):
            to_torch(lambda p, x: x, params)
    with pytest.raises(TypeError, match="incompatible shapes"):
        to_torch(lambda x, y: x + y)(torch.ones(2), torch.ones(3))
    x = torch.ones(3).requires_grad_()
    (slope,) = torch.autograd.grad(to_torch(jnp.sin)(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError):  # once differentiable
        slope.sum().backward()


def test_there_and_back(seed):
    """A torch module wrapped for JAX and again for torch has torch's gradients."""
    torch.manual_seed(seed)
    inner = torch.nn.Linear(6, 3)
    module = to_torch(from_torch(inner))
    x = draw(seed, 4, 6).requires_grad_()
    module(x).pow(2).sum().backward()
    other = x.detach().clone().requires_grad_()
    inner(other).pow(2).sum().backward()
    torch.testing.assert_close(x.grad, other.grad, atol=1e-6, rtol=1e-6)
