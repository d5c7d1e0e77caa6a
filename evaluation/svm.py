"""The machine of the membership attack, scikit-learn's ``SVC(C=3, gamma="auto")``, on all of its
points and fast.

A support-vector machine of n points takes libsvm O(n^2) kernel values. The Gaussian kernel of a few
close columns is, to ten digits, a product of two n x r matrices with r from 8 to a few hundred;
with it an interior-point method needs some twenty steps of O(n r^2). (Fine & Scheinberg, "Efficient
SVM training using low-rank kernel representations", JMLR 2001.) No points are merged and none are
left out.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.linalg.blas import dsyrk
from scipy.linalg.lapack import dpstrf

COST = 3.0
# Points of one column, and of several, that libsvm takes as they are, in milliseconds.
FEW_OF_ONE, FEW_OF_SEVERAL = 1_000, 2_000


class Precision(NamedTuple):
    """``off``: allowed error of a point's kernel with itself. ``doubt``: decisions closer to 0 are
    not trusted, twice the largest error on simulated and on trained networks' outputs.
    """

    off: float
    doubt: float


# The first one, and a finer one where decisions are in doubt; by the number of columns.
OF_ONE = (Precision(1e-10, 2e-4), Precision(1e-13, 1e-7))
OF_SEVERAL = (Precision(1e-6, 5e-4), Precision(1e-10, 5e-6))
# gamma is so small that decisions lie close together, and the kernel close to a linear one of as
# many dimensions as columns; ``doubt`` is twice the root of the mean squared error.
OF_MANY, MANY_COLUMNS = (Precision(1e-7, 1e-5), Precision(1e-8, 5e-6)), 200
MOST_IN_DOUBT = 0.0005  # of the decisions on an audited array
FEW_AUDITED = 2_000  # images, of which no decision may be in doubt
MANY, MAX_RANK, MAX_STEPS, LANDMARKS = 8_000, 800, 100, 400
TIGHT = 1e-7  # tolerance of libsvm where it replaces the interior-point method
# Mean complementarity at which the machine is solved, and at which it is good enough if it stalls.
SOLVED, GOOD_ENOUGH = 1e-12, 1e-8


def decisions(
    points: np.ndarray,
    drawn: Sequence[tuple[np.ndarray, np.ndarray]],
    audited: Sequence[np.ndarray],
) -> list[list[np.ndarray]]:
    """For each draw its machine's decisions (m_j,) on each audited array; >= 0 is a member.

    A tie at 0 goes to the second class, as in scikit-learn.

    Args:
        points: (n, c) float64, c columns; gamma is 1 / c. ``audited``: (m_j, c).
        drawn: for each draw the positions in ``points`` of its members and of its non-members,
            neither empty.
    """
    kernels: dict[float, _Kernel] = {}  # shared by all draws
    found = []
    for members, others in drawn:
        rows = np.concatenate([members, others])
        side = np.repeat([1.0, -1.0], [len(members), len(others)])
        found.append(_one(points, rows, side, audited, kernels))
    return found


def _one(
    points: np.ndarray,
    rows: np.ndarray,
    side: np.ndarray,
    audited: Sequence[np.ndarray],
    kernels: dict,
) -> list[np.ndarray]:
    taught, one_column = points[rows], points.shape[1] == 1
    if len(taught) <= (FEW_OF_ONE if one_column else FEW_OF_SEVERAL):
        return _libsvm(taught, side, None, audited)
    if len(np.unique(taught[:, 0])) <= FEW_OF_ONE // 2:
        # Equal points are one point with their number as its weight.
        distinct, count = _distinct(np.column_stack([side, taught]))
        if len(distinct) <= FEW_OF_ONE:
            return _libsvm(distinct[:, 1:], distinct[:, 0], count, audited, tolerance=TIGHT)
    for off, doubt in _precisions(*taught.shape):
        if off not in kernels:
            kernels[off] = _Kernel(points, audited, off)
        kernel = kernels[off]
        solved = None if kernel.too_large() else _interior_point(kernel.points[rows], side)
        if solved is None:
            break
        weights, bias = solved
        found = [vectors @ weights + bias for vectors in kernel.audited]
        if not any(_in_doubt(each, doubt) for each in found):
            return found
    return _libsvm(taught, side, None, audited, tolerance=TIGHT)


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct ones of ``rows`` (n, c), sorted, and how often each is there; compared byte by
    byte, which takes numpy a hundredth of the time of their numbers.
    """
    rows = np.ascontiguousarray(rows)
    whole = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel()
    _, first, count = np.unique(whole, return_index=True, return_counts=True)
    order = np.lexsort(rows[first].T[::-1])
    return rows[first[order]], count[order]


def _precisions(points: int, columns: int) -> tuple[Precision, ...]:
    if columns == 1:
        return OF_ONE
    if columns > MANY_COLUMNS:
        return OF_MANY
    # A finer kernel of few points takes longer than libsvm.
    return OF_SEVERAL[:1] if points <= MANY else OF_SEVERAL


def _in_doubt(found: np.ndarray, bound: float) -> bool:
    allowed = MOST_IN_DOUBT * len(found) if len(found) >= FEW_AUDITED else 0
    return bool(np.sum(np.abs(found) < bound) > allowed)


def _libsvm(
    points: np.ndarray,
    side: np.ndarray,
    weight: np.ndarray | None,
    audited: Sequence[np.ndarray],
    tolerance: float = 1e-3,
) -> list[np.ndarray]:
    from sklearn.svm import SVC  # half a second to import; only the evaluation needs it

    machine = SVC(C=COST, gamma="auto", tol=tolerance, cache_size=1000)
    machine.fit(points, side, sample_weight=weight)
    return [machine.decision_function(each) if len(each) else np.zeros(0) for each in audited]


# --------------------------------------------------------------------------------------- the kernel


class _Kernel:
    """exp(-|x - x'|^2 / c) as inner products of vectors (rank,), of points and audited arrays.

    Landmarks span the kernel: those that LAPACK's pivoted Cholesky picks among a few points, and
    then among those that are still more than ``off`` from their own kernel value, until there are
    none.
    """

    def __init__(self, points: np.ndarray, audited: Sequence[np.ndarray], off: float):
        self.columns, rng = points.shape[1], np.random.default_rng(0)
        self.gamma = 1 / self.columns
        candidates = rng.permutation(len(points))[: max(LANDMARKS, 2 * self.columns)]
        while True:
            values = self._values(points[candidates], points[candidates])
            factor, order, self.rank, _ = dpstrf(values, lower=1, tol=off)
            candidates = candidates[order[: self.rank] - 1]
            self.landmarks = points[candidates]
            self.factor = np.tril(factor[: self.rank, : self.rank])
            self.points = self._vectors(points)
            missing = np.flatnonzero(1 - np.einsum("ij,ij->i", self.points, self.points) > 4 * off)
            if not len(missing) or self.too_large():
                break
            candidates = np.concatenate([candidates, rng.permutation(missing)[:LANDMARKS]])
        self.audited = [self._vectors(each) for each in audited]

    def too_large(self) -> bool:
        """Whether libsvm is faster than the interior-point method."""
        many = self.columns > MANY_COLUMNS
        return self.rank > (3 * max(MAX_RANK, self.columns) if many else MAX_RANK)

    def _vectors(self, points: np.ndarray) -> np.ndarray:
        values = self._values(self.landmarks, points)
        return np.ascontiguousarray(solve_triangular(self.factor, values, lower=True).T)

    def _values(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """exp(-gamma |a_i - b_j|^2), float64, in one buffer."""
        a, b = torch.from_numpy(np.ascontiguousarray(a)), torch.from_numpy(np.ascontiguousarray(b))
        squares = torch.addmm(b.square().sum(1), a, b.T, alpha=-2).add_(a.square().sum(1)[:, None])
        return squares.clamp_(min=0).mul_(-self.gamma).exp_().numpy()


# --------------------------------------------------------------------------------------- the solver


class _Iterate(NamedTuple):
    """The solver's state: u = (w, b) and, for each point, the slack of its margin with multiplier
    a, and xi with multiplier ``rest`` = C - a; all but u above 0.
    """

    u: np.ndarray
    a: np.ndarray
    slack: np.ndarray
    rest: np.ndarray
    xi: np.ndarray

    def complementarity(self) -> float:
        """The mean product of a constraint's slack and multiplier: 0 at the solution."""
        return (self.a @ self.slack + self.rest @ self.xi) / (2 * len(self.a))

    def moved(self, part: float, step: "_Iterate") -> "_Iterate":
        return _Iterate(*(value + part * change for value, change in zip(self, step, strict=True)))

    def longest(self, step: "_Iterate") -> float:
        """The largest part of ``step``, at most 1, that keeps all but u above 0."""
        part = 1.0
        with np.errstate(divide="ignore", invalid="ignore"):
            for value, change in list(zip(self, step, strict=True))[1:]:
                part = min(part, float(np.min(np.where(change < 0, -value / change, 1.0))))
        return part


class _Newton:
    """The Newton equations of the primal and dual conditions at one iterate, factored once.

    Raises:
        LinAlgError, ValueError: they cannot be solved.
    """

    def __init__(self, z: np.ndarray, ridge: np.ndarray, at: _Iterate, short: np.ndarray):
        self.z, self.at, self.short = z, at, short
        self.off = z.T @ at.a - ridge * at.u
        self.thin = 1 / (at.slack / at.a + at.xi / at.rest)
        normal = dsyrk(1, (z * np.sqrt(self.thin)[:, None]).T, lower=1) + np.diag(ridge)
        self.factor = cho_factor(normal, lower=True)

    def step(self, aim_a: np.ndarray | float, aim_rest: np.ndarray | float) -> _Iterate:
        """Towards a * slack = aim_a and rest * xi = aim_rest."""
        _, a, slack, rest, xi = self.at
        wanted = self.short + aim_rest / rest - xi - aim_a / a + slack
        du = cho_solve(self.factor, self.off - self.z.T @ (self.thin * wanted))
        da = -self.thin * (self.z @ du + wanted)
        d_slack = aim_a / a - slack - slack / a * da
        return _Iterate(du, da, d_slack, -da, aim_rest / rest - xi + xi / rest * da)


def _interior_point(x: np.ndarray, side: np.ndarray) -> tuple[np.ndarray, float] | None:
    """w (r,) and b of the linear machine min |w|^2 / 2 + C sum_i max(0, 1 - side_i (w x_i + b));
    None where it does not converge.

    Mehrotra's predictor and corrector on the primal and dual conditions. With rows z_i = side_i
    (x_i, 1), u = (w, b): slack s = Z u - 1 + xi >= 0 with multipliers a >= 0, and xi >= 0 with
    multipliers C - a >= 0.

    Args:
        x: (n, r) float64. side: (n,), 1 of a member, -1 of another.
    """
    z = np.column_stack([x, np.ones(len(x))]) * side[:, None]
    ridge = np.ones(z.shape[1])
    ridge[-1] = 0
    half = np.full(len(z), COST / 2)
    at = _Iterate(np.zeros(z.shape[1]), half, np.ones(len(z)), half, np.full(len(z), 2.0))
    for _ in range(MAX_STEPS):
        gap = at.complementarity()
        short = z @ at.u - 1 + at.xi - at.slack
        if gap < SOLVED and np.abs(short).max() < 1e-9:
            break
        try:
            newton = _Newton(z, ridge, at, short)
        except (np.linalg.LinAlgError, ValueError):
            break
        guess = newton.step(0.0, 0.0)
        reached = at.moved(at.longest(guess), guess).complementarity()
        aim = (reached / gap) ** 3 * gap
        step = newton.step(aim - guess.a * guess.slack, aim - guess.rest * guess.xi)
        at = at.moved(min(1.0, 0.99 * at.longest(step)), step)
    if not gap < GOOD_ENOUGH:
        return None
    w = at.u[:-1]
    return w, _bias(x @ w, side, at.a, float(at.u[-1]))


def _bias(scores: np.ndarray, side: np.ndarray, a: np.ndarray, b: float) -> float:
    """``b``, or libsvm's middle of the equally good ones where every multiplier is at a bound."""
    low, high = a < 1e-6 * COST, a > (1 - 1e-6) * COST
    if not (low | high).all():
        return b
    limits = side - scores
    above, below = limits[low == (side > 0)], limits[low == (side < 0)]
    return float((above.max() + below.min()) / 2) if len(above) and len(below) else b
