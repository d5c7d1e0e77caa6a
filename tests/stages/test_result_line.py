"""The line for grep that a script ends with."""

import math

from stages.results import result_line


def test_a_metric_that_is_none_is_left_out():
    metrics = {"train": 99.0, "VA": None, "TA": 80.126, "MIA": math.nan}
    assert result_line("original", metrics, 12.34) == (
        "RESULT method=original train=99.00 TA=80.13 RTE=12.3"
    )
    assert result_line("FT", {"VA": math.nan}, 1) == "RESULT method=FT RTE=1.0"
