"""The machine of the membership attack, scikit-learn's ``SVC(C=3, gamma="auto")``, on all of its
points and fast.

A support-vector machine of n points takes libsvm O(n^2) kernel values. The Gaussian kernel of a few
close columns is, to ten digits, a product of two n x r matrices with r from 8 to a few hundred;
with it an interior-point method needs some twenty steps of O(n r^2). (Fine & Scheinberg, "Efficient
SVM training using low-rank kernel representations", JMLR 2001.) No points are merged and none are
left out.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.linalg.blas import dsyrk
from scipy.linalg.lapack import dpstrf

COST = 3.0
FEW = {
    True: 1_000,
    False: 2_000,
}  # points of one column and of several that libsvm takes as they are, in milliseconds
# How far the kernel of a point to itself may be off, and within how much of 0 a decision is then in
# doubt: twice the largest error found on made-up and on trained networks' outputs, at first and
# where there is doubt.
PRECISION = {True: ((1e-10, 2e-4), (1e-13, 1e-7)), False: ((1e-6, 5e-4), (1e-10, 5e-6))}
IN_DOUBT, ANY_BELOW = (
    0.0005,
    2_000,
)  # the share of audited images whose decisions may be in doubt; none of so few images
MANY, MAX_RANK, MAX_STEPS, LANDMARKS = 8_000, 800, 100, 400
TIGHT = 1e-7  # of libsvm, where it decides what the other could not
GAP, ENOUGH = (
    1e-12,
    1e-8,
    # mean complementarity at which the machine is solved, and at which it is good enough if it
    # stalls
)


def decisions(
    points: np.ndarray,
    drawn: Sequence[tuple[np.ndarray, np.ndarray]],
    audited: Sequence[np.ndarray],
) -> list[list[np.ndarray]]:
    """For each draw, the decisions (m_j,) of its machine on each audited array; 0 and above is
    called a member.

    That 0 is a member's is scikit-learn's rule: of two classes the second one wins a tie. The same
    machine for any two labels that sort non-member first.

    Args:
        points: (n, c) float64, c columns; gamma is 1 / c. ``audited``: (m_j, c).
        drawn: for each draw the positions in ``points`` of its members and of its non-members,
            neither empty.
    """
    kernels: dict[float, _Kernel] = {}  # shared by all draws
    found = []
    for members, others in drawn:
        rows, side = (
            np.concatenate([members, others]),
            np.repeat([1.0, -1.0], [len(members), len(others)]),
        )
        found.append(_one(points, rows, side, audited, kernels))
    return found


def _one(
    points: np.ndarray,
    rows: np.ndarray,
    side: np.ndarray,
    audited: Sequence[np.ndarray],
    kernels: dict,
) -> list[np.ndarray]:
    mine, one_column = points[rows], points.shape[1] == 1
    if len(mine) <= FEW[one_column]:
        return _libsvm(mine, side, None, audited)
    if len(np.unique(mine[:, 0])) <= FEW[True] // 2:
        distinct, count = np.unique(np.column_stack([side, mine]), axis=0, return_counts=True)
        if len(distinct) <= FEW[True]:  # equal points are one point with their number as its weight
            return _libsvm(distinct[:, 1:], distinct[:, 0], count, audited, tolerance=TIGHT)
    # In many columns a finer kernel is long: few points are then sooner left to libsvm.
    for off, doubt in PRECISION[one_column][: 2 if one_column or len(mine) > MANY else 1]:
        if off not in kernels:
            kernels[off] = _Kernel(points, audited, off)
        kernel = kernels[off]
        solved = None if kernel.rank > MAX_RANK else _interior_point(kernel.points[rows], side)
        if solved is None:
            break
        found = [vectors @ solved[0] + solved[1] for vectors in kernel.audited]
        if not any(_in_doubt(each, doubt) for each in found):
            return found
    return _libsvm(mine, side, None, audited, tolerance=TIGHT)


def _in_doubt(found: np.ndarray, bound: float) -> bool:
    close = np.sum(np.abs(found) < bound)
    return bool(close > (IN_DOUBT * len(found) if len(found) >= ANY_BELOW else 0))


def _libsvm(
    points: np.ndarray,
    side: np.ndarray,
    weight: np.ndarray | None,
    audited: Sequence[np.ndarray],
    tolerance: float = 1e-3,
) -> list[np.ndarray]:
    from sklearn.svm import SVC  # half a second to import; only the evaluation needs it

    machine = SVC(C=COST, gamma="auto", tol=tolerance, cache_size=1000).fit(
        points, side, sample_weight=weight
    )
    return [machine.decision_function(each) if len(each) else np.zeros(0) for each in audited]


# --------------------------------------------------------------------------------------- the kernel


class _Kernel:
    """exp(-|x - x'|^2 / c) as inner products of vectors (rank,): of the ``points`` (n, rank) and of
    each ``audited`` array.

    Landmarks span the kernel: those that LAPACK's pivoted Cholesky picks among a few points, and
    then among those that are still more than ``off`` from their own kernel value, until there are
    none.
    """

    def __init__(self, points: np.ndarray, audited: Sequence[np.ndarray], off: float):
        self.gamma, rng = 1 / points.shape[1], np.random.default_rng(0)
        candidates = rng.permutation(len(points))[:LANDMARKS]
        while True:
            factor, order, self.rank, _ = dpstrf(
                self._values(points[candidates], points[candidates]), lower=1, tol=off
            )
            candidates = candidates[order[: self.rank] - 1]
            self.landmarks, self.factor = (
                points[candidates],
                np.tril(factor[: self.rank, : self.rank]),
            )
            self.points = self._vectors(points)
            missing = np.flatnonzero(1 - np.einsum("ij,ij->i", self.points, self.points) > 4 * off)
            if not len(missing) or self.rank > MAX_RANK:
                break
            candidates = np.concatenate([candidates, rng.permutation(missing)[:LANDMARKS]])
        self.audited = [self._vectors(each) for each in audited]

    def _vectors(self, points: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(
            solve_triangular(self.factor, self._values(self.landmarks, points), lower=True).T
        )

    def _values(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """exp(-gamma |a_i - b_j|^2), float64, in one buffer."""
        a, b = torch.from_numpy(np.ascontiguousarray(a)), torch.from_numpy(np.ascontiguousarray(b))
        distances = (
            torch.addmm(b.square().sum(1), a, b.T, alpha=-2)
            .add_(a.square().sum(1)[:, None])
            .clamp_(min=0)
        )
        return distances.mul_(-self.gamma).exp_().numpy()


# --------------------------------------------------------------------------------------- the solver


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
    u, slack, xi = np.zeros(z.shape[1]), np.ones(len(z)), np.full(len(z), 2.0)
    a, rest = np.full(len(z), COST / 2), np.full(len(z), COST / 2)
    for _ in range(MAX_STEPS):
        gap = (a @ slack + rest @ xi) / (2 * len(z))
        short = z @ u - 1 + xi - slack
        if gap < GAP and np.abs(short).max() < 1e-9:
            break
        thin = 1 / (slack / a + xi / rest)
        try:
            system = cho_factor(
                dsyrk(1, (z * np.sqrt(thin)[:, None]).T, lower=1) + np.diag(ridge), lower=True
            )
        except (np.linalg.LinAlgError, ValueError):
            break
        off = z.T @ a - ridge * u

        def step(aim_a: np.ndarray | float, aim_rest: np.ndarray | float) -> tuple:
            """The Newton step towards a * slack = aim_a, rest * xi = aim_rest."""
            wanted = short + aim_rest / rest - xi - aim_a / a + slack  # noqa: B023
            du = cho_solve(system, off - z.T @ (thin * wanted))  # noqa: B023
            da = -thin * (z @ du + wanted)  # noqa: B023
            return (
                du,
                da,
                aim_a / a - slack - slack / a * da,  # noqa: B023
                aim_rest / rest - xi + xi / rest * da,  # noqa: B023
            )

        _, da, ds, dx = step(0.0, 0.0)
        part = _longest((a, da), (slack, ds), (rest, -da), (xi, dx))
        reached = (
            (a + part * da) @ (slack + part * ds) + (rest - part * da) @ (xi + part * dx)
        ) / (2 * len(z))
        aim = (reached / gap) ** 3 * gap
        du, da, ds, dx = step(aim - da * ds, aim + da * dx)
        part = min(1.0, 0.99 * _longest((a, da), (slack, ds), (rest, -da), (xi, dx)))
        u, a, slack, rest, xi = (
            u + part * du,
            a + part * da,
            slack + part * ds,
            rest - part * da,
            xi + part * dx,
        )
    if not gap < ENOUGH:
        return None
    w = u[:-1]
    return w, _bias(x @ w, side, a, float(u[-1]))


def _longest(*pairs: tuple[np.ndarray, np.ndarray]) -> float:
    """The longest step, at most 1, that keeps every value + step * change above 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return min(
            1.0,
            *(float(np.min(np.where(change < 0, -value / change, 1.0))) for value, change in pairs),
        )


def _bias(scores: np.ndarray, side: np.ndarray, a: np.ndarray, b: float) -> float:
    """``b``, or where every multiplier is at a bound the middle of those that are as good, as
    libsvm has it.
    """
    low, high = a < 1e-6 * COST, a > (1 - 1e-6) * COST
    if not (low | high).all():
        return b
    limits = side - scores
    above, below = limits[low == (side > 0)], limits[low == (side < 0)]
    return float((above.max() + below.min()) / 2) if len(above) and len(below) else b
