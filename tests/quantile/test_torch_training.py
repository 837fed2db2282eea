"""The training loop: best state kept, caps, patience, generators left alone."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from uqlib.quantile._torch_training import (  # noqa: E402
    auto_batch_size,
    isolated_generators,
    train,
)

X = torch.linspace(-1, 1, 200)[:, None]
Y = 3 * X[:, 0] + 1


def line():
    module = torch.nn.Linear(1, 1)
    torch.nn.init.zeros_(module.weight)
    torch.nn.init.zeros_(module.bias)
    return module


def squared(module, rows=slice(None)):
    return ((module(X[rows])[:, 0] - Y[rows]) ** 2).mean()


def run(module, validation=None, loss=None, **parameters):
    return train(
        module,
        loss or (lambda rows: squared(module, rows)),
        validation,
        len(Y),
        **{"max_iter": 2000, "learning_rate": 0.05} | parameters,
    )


def values(module):
    return np.concatenate([p.detach().numpy().ravel() for p in module.parameters()])


def test_a_line_is_learned():
    module = line()
    result = run(module, lambda: squared(module))
    assert squared(module).item() == pytest.approx(result.best_loss)
    np.testing.assert_allclose(values(module), [3, 1], atol=1e-3)
    assert not module.training


def test_the_state_with_the_lowest_validation_loss_is_kept():
    module, seen = line(), []

    def validation():  # falls, then grows: the best slope on the way to 3 is 1
        seen.append((abs(module.weight.item() - 1.0), values(module)))
        return seen[-1][0]

    result = run(module, validation, evaluate_every=10, n_iter_no_change=200)
    losses = [loss for loss, _ in seen]
    best = int(np.argmin(losses))
    assert 0 < best < len(losses) - 1
    assert result.best_loss == losses[best]
    np.testing.assert_array_equal(values(module), seen[best][1])
    assert result.validation_curve == losses
    assert result.n_iter == 10 * (best + 20)  # patience in steps


def test_the_initial_state_is_kept_where_training_harms():
    module = line()
    run(module, lambda: module.weight.abs().item(), n_iter_no_change=300)
    np.testing.assert_array_equal(values(module), [0, 0])


@pytest.mark.parametrize("max_iter", [1, 99, 250])
def test_the_number_of_steps_is_capped(max_iter):
    module, calls = line(), []

    def loss(rows):
        calls.append(len(rows))
        return squared(module, rows)

    result = run(module, lambda: squared(module), loss, max_iter=max_iter)
    assert result.n_iter == len(calls) == max_iter
    assert set(calls) == {auto_batch_size(len(Y))}
    assert len(result.loss_curve) == len(result.validation_curve) - 1
    assert len(result.loss_curve) == math.ceil(max_iter / 100)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("validated", [False, True])
def test_a_loss_that_is_not_finite_ends_training_in_the_best_state(bad, validated):
    module, calls, states = line(), [], []

    def loss(rows):
        calls.append(1)
        factor = bad if len(calls) > 250 else 1.0
        return factor * squared(module, rows)

    def validation():
        states.append((squared(module).item(), values(module)))
        return states[-1][0]

    result = run(module, validation if validated else None, loss)
    assert result.diverged
    assert result.n_iter == 300
    assert np.isfinite(values(module)).all()
    if validated:
        assert result.best_loss == min(v for v, _ in states if math.isfinite(v))
        np.testing.assert_array_equal(values(module), states[2][1])
    else:
        assert squared(module).item() < 1.0  # the state after 200 steps


def test_a_start_that_cannot_be_judged_is_left_as_it_is():
    module = line()
    result = run(module, lambda: math.nan)
    assert result.diverged
    assert result.n_iter == 0
    np.testing.assert_array_equal(values(module), [0, 0])


def test_without_validation_the_last_state_is_kept():
    module = line()
    result = run(module, max_iter=1500)
    assert result.n_iter == 1500
    assert math.isnan(result.best_loss)
    np.testing.assert_allclose(values(module), [3, 1], atol=1e-3)


def noisy():
    with isolated_generators(5, "cpu"):
        return torch.nn.Sequential(
            torch.nn.Linear(1, 8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 1)
        )


def test_equal_seeds_give_equal_states_and_nothing_global_changes():
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    states = []
    for seed in (1, 1, 2):
        module = noisy()
        run(module, lambda m=module: squared(m), max_iter=200, seed=seed)
        states.append(values(module))
        torch.rand(3)  # what happens outside does not matter
    np.testing.assert_array_equal(states[0], states[1])
    assert not np.array_equal(states[0], states[2])
    torch.set_rng_state(before)
    module = noisy()
    run(module, lambda: squared(module), max_iter=200)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_every_row_is_used_once_a_pass():
    module, seen = line(), []

    def loss(rows):
        seen.append(rows.clone())
        return squared(module, rows)

    run(module, None, loss, max_iter=8, batch_size=50)
    for half in (seen[:4], seen[4:]):
        assert sorted(torch.cat(half).tolist()) == list(range(200))
    assert not torch.equal(torch.cat(seen[:4]), torch.cat(seen[4:]))


def test_a_batch_is_never_larger_than_the_data():
    module, sizes = line(), []

    def loss(rows):
        sizes.append(len(rows))
        return squared(module, rows)

    run(module, None, loss, max_iter=3, batch_size=1000)
    assert sizes == [200] * 3


def test_batch_size_grows_with_the_number_of_rows():
    sizes = [auto_batch_size(n) for n in (1, 9, 10, 999, 1000, 10**4, 10**6)]
    assert sizes == [8, 8, 16, 32, 64, 128, 512]
