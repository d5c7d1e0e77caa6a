"""Influence unlearning against dense linear algebra in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers import TinyNet, make_data, make_model, per_sample_gradients, whole

from unlearn.tools.per_sample import per_sample_gradients as gradient_stream
from unlearn.wfisher import (
    FisherProduct,
    InfluenceUnlearning,
    conjugate_gradients,
    influence_vector,
    one_vector_recursion,
)


class Batches(list):
    """(images, labels) batches in float64 with the interface that the solver uses."""

    num_samples = property(lambda self: sum(len(labels) for _, labels in self))

    def shared(self):
        return self

    def batches_of(self, size):
        images, labels = whole(self)
        return Batches(zip(images.split(size), labels.split(size), strict=True))


@pytest.fixture(scope="module")
def problem():
    """A float64 network, 40 samples, their dense gradients G (40, P) and a right-hand
    side v (P).
    """
    torch.manual_seed(0)
    model = TinyNet().double().eval()
    samples = Batches(
        [
            (2 * torch.randn(20, 3, 8, 8, dtype=torch.float64), torch.randint(0, 4, (20,)))
            for _ in range(2)
        ]
    )
    dense = per_sample_gradients(model, *whole(samples))
    return model, samples, dense, torch.randn(dense.shape[1], dtype=torch.float64)


def named(flat, model):
    parts = flat.split([p.numel() for p in model.parameters()])
    return {
        name: part.reshape(p.shape)
        for (name, p), part in zip(model.named_parameters(), parts, strict=True)
    }


def flat(vector):
    return torch.cat([value.reshape(-1) for value in vector.values()])


@pytest.mark.parametrize("damping", [1.0, 0.1])
def test_exact_solver_equals_the_dense_inverse(problem, damping):
    model, samples, g, v = problem
    fisher = damping * torch.eye(len(v), dtype=torch.float64) + g.T @ g / len(g)
    torch.testing.assert_close(
        flat(FisherProduct(model, samples, damping)(named(v, model))),
        fisher @ v,
        rtol=1e-12,
        atol=1e-12,
    )
    solution, report = conjugate_gradients(
        FisherProduct(model, samples, damping), named(v, model), 1e-13, 500
    )
    torch.testing.assert_close(
        flat(solution), torch.linalg.solve(fisher, v), rtol=1e-10, atol=1e-10
    )
    assert report["residual"] < 1e-12
    # At most one step per distinct eigenvalue: 40 samples and the damping.
    assert 0 < report["iterations"] <= 45


def test_exact_solver_equals_woodbury_and_the_full_recursion(problem):
    """Two other routes to F^-1 v: the 40 x 40 Gram system, and the rank-one recursion that keeps
    every o_i.
    """
    model, samples, g, v = problem
    n = len(g)
    gram = n * torch.eye(n, dtype=torch.float64) + g @ g.T
    woodbury = v - g.T @ torch.linalg.solve(gram, g @ v)
    o, k = [], v.clone()
    for gradient in g:
        new = gradient.clone()
        for old_gradient, old in zip(g, o, strict=False):
            new -= (old @ gradient) / (n + old_gradient @ old) * old
        k -= (gradient @ k) / (n + gradient @ new) * new
        o.append(new)
    solution, _ = conjugate_gradients(
        FisherProduct(model, samples, 1.0), named(v, model), 1e-13, 500
    )
    torch.testing.assert_close(flat(solution), woodbury, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(flat(solution), k, rtol=1e-10, atol=1e-10)


def test_official_bug_one_vector_recursion_only_moves_along_the_first_gradient(problem):
    model, samples, g, v = problem
    moved = flat(one_vector_recursion(gradient_stream(model, samples), named(v, model), len(g))) - v
    assert abs(float(F.cosine_similarity(moved, g[0], dim=0))) == pytest.approx(1.0, abs=1e-12)
    exact, _ = conjugate_gradients(FisherProduct(model, samples, 1.0), named(v, model), 1e-13, 500)
    assert abs(float(F.cosine_similarity(flat(exact) - v, g[0], dim=0))) < 0.9


def test_large_damping_leaves_the_plain_step(problem):
    model, samples, _, v = problem
    solution, _ = conjugate_gradients(
        FisherProduct(model, samples, 1e9), named(v, model), 1e-12, 50
    )
    torch.testing.assert_close(flat(solution) * 1e9, v, rtol=1e-6, atol=1e-6)


def test_unconverged_solver_says_so(problem):
    model, samples, _, v = problem
    _, report = conjugate_gradients(FisherProduct(model, samples, 1e-4), named(v, model), 1e-12, 2)
    assert report["iterations"] == 2
    assert report["residual"] > 1e-6


def test_zero_right_hand_side_changes_nothing(problem):
    model, samples, _, v = problem
    solution, report = conjugate_gradients(
        FisherProduct(model, samples, 1.0), named(0 * v, model), 1e-5, 50
    )
    assert not flat(solution).any()
    assert report == {"iterations": 0, "residual": 0.0}


def test_influence_vector_is_the_reweighting_of_all_samples(model, data):
    """v = sum_i (1/n - w_i) g_i with w = 1/n_r on retain and 0 on forget, from per-sample
    gradients.
    """
    forget, retain = (
        per_sample_gradients(model, *whole(loader.eval_view()))
        for loader in (data.forget, data.retain)
    )
    n = len(forget) + len(retain)
    expected = forget.sum(0) / n + (1 / n - 1 / len(retain)) * retain.sum(0)
    v = influence_vector(model, data.forget.eval_view(), data.retain.eval_view())
    torch.testing.assert_close(flat(v), expected, rtol=1e-3, atol=1e-6)


def test_edit_is_the_dense_newton_step_on_the_drawn_retain_samples(data):
    model = make_model()
    method = InfluenceUnlearning(alpha=3.0, samples=50, damping=0.5, tolerance=1e-6)
    reference = copy.deepcopy(model)
    report = method.edit(model, data)
    drawn = data.retain.eval_view().subset(50, "fisher")
    g = per_sample_gradients(reference, *whole(drawn)).double()
    v = flat(influence_vector(reference, data.forget.eval_view(), data.retain.eval_view())).double()
    step = torch.linalg.solve(0.5 * torch.eye(len(v), dtype=torch.float64) + g.T @ g / 50, v)
    moved = flat({n: p.detach() for n, p in model.named_parameters()}) - flat(
        {n: p.detach() for n, p in reference.named_parameters()}
    )
    torch.testing.assert_close(moved.double(), 3 * step, rtol=1e-2, atol=1e-6)
    assert report["fisher_samples"] == 50
    assert report["residual"] < 1e-5


@pytest.mark.parametrize("solver", ["exact", "one_vector"])
def test_alpha_zero_is_identity(solver):
    model = make_model()
    InfluenceUnlearning(alpha=0.0, samples=20, solver=solver).edit(model, make_data())
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            model.state_dict().values(), make_model().state_dict().values(), strict=True
        )
    )


def test_quadratic_loss_newton_step_is_retraining():
    """Ridge regression: with the exact retain Hessian, theta + H^-1 v equals training without the
    points.
    """
    torch.manual_seed(1)
    x, y = torch.randn(30, 4, dtype=torch.float64), torch.randn(30, dtype=torch.float64)
    keep = torch.arange(30) >= 5

    def fit(x, y):
        return torch.linalg.solve(
            x.T @ x / len(x) + 0.1 * torch.eye(4, dtype=torch.float64), x.T @ y / len(x)
        )

    theta = fit(x, y)
    g = x * (x @ theta - y)[:, None] + 0.1 * theta
    v = (5 / 30) * (g[~keep].mean(0) - g[keep].mean(0))
    hessian = x[keep].T @ x[keep] / 25 + 0.1 * torch.eye(4, dtype=torch.float64)
    solution, _ = conjugate_gradients(lambda u: {"w": hessian @ u["w"]}, {"w": v}, 1e-14, 50)
    torch.testing.assert_close(theta + solution["w"], fit(x[keep], y[keep]), rtol=1e-10, atol=1e-12)


def test_no_iteration_leaves_the_whole_residual():
    v = {"w": torch.ones(3)}
    assert conjugate_gradients(lambda u: u, v, 1e-5, 0)[1] == {"iterations": 0, "residual": 1.0}
