"""benchmarks/architectures.py: both sides descend alike, and a row says who is faster."""

import pytest
import torch

from benchmarks import architectures


def test_the_sides_make_the_same_steps():
    """Three updates of each side of one network end at one loss."""
    images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
    sides = [architectures.plain_step("resnet20s", images, labels)]
    for layout in architectures.FORMATS.values():
        sides.append(architectures.our_step("resnet20s", images, labels, layout))
    first, *rest = [[step() for _ in range(3)] for step in sides]
    assert first[0] > first[-1]
    for losses in rest:
        assert losses == pytest.approx(first, rel=1e-3)


def test_every_side_is_timed_in_every_turn_and_the_row_has_their_ratios():
    seconds = architectures.measured("resnet20s", 8, 4, 3)
    assert {name: len(each) for name, each in seconds.items()} == dict.fromkeys(seconds, 3)
    made_up = {"plain": [2.0] * 4, "channels_last": [1.0] * 4, "contiguous": [4.0] * 4}
    row = architectures.row("x", 4, made_up)
    assert row == "| `x` | 4 | 2000 ms | 2.00 (2.00 to 2.00) | 0.50 (0.50 to 0.50) |"
