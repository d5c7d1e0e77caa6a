"""Units of work on one card: which may begin, and which of them fit into the time that is left.

A unit's work is its seconds alone on the card. ``slow[k]`` is how many times longer everything
takes with k units at once.
"""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence

# Before anything is measured: the aim of 25,000 images a second, with validation and saving.
EPOCH_SECONDS = 2.0
# Of a unit besides its epochs: start-up, evaluation with its attack, and the outputs that are kept
# of it.
BESIDE_EPOCHS = 30.0
# A training that does not fit is begun all the same where this much is left: it goes on from its
# last epoch.
WORTH_BEGINNING = 60.0
# An epoch slower than this makes the published training too long: fewer epochs, under a cosine.
SLOWEST_EPOCH, FEWER_EPOCHS = 3.0, 60
# Several units at once are worth it from this gain on.
GAIN = 1.2


@dataclasses.dataclass(frozen=True)
class Unit:
    """One call of one of the project's scripts.

    ``epochs`` is its price in passes over the training split, ``kind`` what units of other seeds
    share, ``stem`` begins the names of its files; ``resumable`` says that a part of it is worth
    something, ``audited`` that its outputs are kept for the audit.
    """

    name: str
    kind: str
    script: str
    flags: tuple[str, ...]
    epochs: float
    stem: str
    needs: tuple[str, ...] = ("original",)
    resumable: bool = False
    audited: bool = True


def decide(epoch_seconds: float, epochs: int, asked: int | None = None) -> dict[str, object]:
    """The training's epochs and schedule: the published ones; fewer under a cosine where they are
    ``asked`` for or an epoch takes too long.
    """
    if asked or epoch_seconds > SLOWEST_EPOCH:
        return {"epochs": min(epochs, asked or FEWER_EPOCHS), "schedule": "cosine"}
    return {"epochs": epochs, "schedule": "multistep"}


def at_once(alone: float, together: Mapping[int, float]) -> tuple[int, dict[int, float]]:
    """How many units at once pay, and how much slower each one is then.

    Args:
        alone: seconds of an epoch with nothing beside it.
        together: seconds of an epoch by the number of units.

    Returns:
        The number with the largest gain, 1 where none reaches :data:`GAIN`, and ``slow`` up to the
        largest number measured.
    """
    slow = {1: 1.0} | {count: seconds / alone for count, seconds in together.items()}
    best = max(slow, key=lambda count: count / slow[count])
    return (best if best / slow[best] >= GAIN else 1), slow


def expected_work(
    unit: Unit, epoch_seconds: float | None, done: Mapping[str, Sequence[float]]
) -> float:
    """Seconds that a unit takes alone.

    Args:
        epoch_seconds: as measured; None before that.
        done: the works of finished units by kind: the mean of its own kind is the best guess.
    """
    if mine := done.get(unit.kind):
        return statistics.fmean(mine)
    return BESIDE_EPOCHS + unit.epochs * (EPOCH_SECONDS if epoch_seconds is None else epoch_seconds)


def choose(
    ready: Sequence[Unit],
    works: Mapping[str, float],
    running: Sequence[float],
    left: float,
    slow: Mapping[int, float],
) -> Unit | None:
    """The first unit that can begin now without it, or what runs already, being cut off; None where
    no unit can.

    Where nothing runs and nothing fits, a resumable unit begins if there is time for a part of it
    that is worth something.

    Args:
        ready: units whose needs are done, in order.
        works: seconds that each unit takes alone, by its name.
        running: the works that are left of what runs.
        left: seconds until the end.
    """
    factor = slow.get(len(running) + 1)
    if factor is None:
        return None
    for unit in ready:
        if all(work * factor <= left for work in (*running, works[unit.name])):
            return unit
    if not running and left >= WORTH_BEGINNING:
        return next((unit for unit in ready if unit.resumable), None)
    return None


def simulate(
    units: Sequence[Unit],
    done: set[str],
    work_of: Callable[[Unit], float],
    seconds: float,
    most: int,
    slow: Mapping[int, float],
) -> dict[str, tuple[float, float]]:
    """When each unit would begin and end, in seconds from now, by :func:`choose`'s rule; an end
    after ``seconds`` is a part of it.

    Units that would not begin are absent.
    """
    done, works = set(done), {unit.name: work_of(unit) for unit in units}
    now, running, found = 0.0, {}, {}
    while True:
        while len(running) < most:
            waiting = [unit for unit in units if unit.name not in done and unit.name not in found]
            ready = [unit for unit in waiting if done.issuperset(unit.needs)]
            unit = choose(ready, works, list(running.values()), seconds - now, slow)
            if unit is None:
                break
            running[unit.name] = works[unit.name]
            found[unit.name] = now, float("inf")
        if not running:
            return found
        first = min(running, key=running.get)
        step = running[first]
        now += step * slow[len(running)]
        running = {name: work - step for name, work in running.items() if name != first}
        done.add(first)
        found[first] = found[first][0], now
