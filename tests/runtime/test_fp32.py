"""fp32 means fp32: where TF32 is switched off, shown by the settings that each pass through a
network is made under.
"""

import warnings

import pytest
import torch
from helpers import make_data, make_model, random_mask, small

from engine import predict
from masks.scores import SCORES
from runtime.devices import exact_fp32, tune_cuda
from unlearn import METHODS
from unlearn.base import Iterative

EXACT, LOOSE = ("highest", False), ("high", True)


def settings():
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.fixture(params=[EXACT, LOOSE], ids=["exact", "loose"])
def outside(request):
    """Settings that a caller of the library may have; put back afterwards, as is cuDNN's search."""
    before, benchmark = settings(), torch.backends.cudnn.benchmark
    torch.set_float32_matmul_precision(request.param[0])
    torch.backends.cudnn.allow_tf32 = request.param[1]
    yield request.param
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = before[1], benchmark


def passes(model):
    """The settings of every pass through the model from now on, and through copies of it."""
    seen = []
    model.conv.register_forward_pre_hook(lambda module, inputs: seen.append(settings()))
    return seen


def one_shot(name):
    options = {"samples": 8, "alpha": 0.5}
    known = METHODS[name].__dataclass_fields__
    return METHODS[name](**{key: value for key, value in options.items() if key in known})


MEASURES = {
    "evaluation": lambda model, data: predict(model, data.evaluation["test"]),
    **{
        f"mask by {name}": lambda model, data, score=score: score(model, data)
        for name, score in SCORES.items()
        if name not in ("layers", "random", "magnitude")
    },
    **{
        name: lambda model, data, name=name: one_shot(name).edit(model, data)
        for name, method in METHODS.items()
        if not issubclass(method, Iterative) and name != "raw"
    },
}


@pytest.mark.parametrize("name", MEASURES)
def test_what_is_measured_is_measured_without_tf32(name, outside):
    model, data = make_model(), make_data(batch_size=8)
    seen = passes(model)
    MEASURES[name](model, data)
    assert set(seen) == {EXACT}
    assert settings() == outside


@pytest.mark.parametrize(
    "name", [name for name, method in METHODS.items() if issubclass(method, Iterative)]
)
def test_what_a_method_prepares_is_computed_without_tf32(name, outside):
    model, data = make_model(), make_data(batch_size=8)
    seen, method = passes(model), small(name)
    method.prepare(model, data, random_mask(model))
    method.finish(model, data)
    assert set(seen) <= {EXACT}


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_scripts_use_no_tf32_on_cuda_and_leave_other_devices_alone(device, outside):
    torch.backends.cudnn.benchmark = False
    tune_cuda(torch.device(device))
    assert settings() == (EXACT if device == "cuda" else outside)
    assert torch.backends.cudnn.benchmark is (device == "cuda")


def test_deterministic_takes_no_convolution_by_trial(outside, monkeypatch):
    cudnn = torch.backends.cudnn
    for deterministic in (True, False):
        tune_cuda(torch.device("cuda"), deterministic)
        assert (cudnn.deterministic, cudnn.benchmark) == (deterministic, not deterministic)
    cudnn.benchmark = False


def test_the_settings_come_back_after_an_error_and_nothing_warns(outside):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with exact_fp32():
            assert settings() == EXACT
        with pytest.raises(KeyError), exact_fp32():
            raise KeyError
        assert settings() == outside
