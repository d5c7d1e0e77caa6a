"""What a verdict advises: by what the method has and does."""

import copy
import dataclasses
import re

import pytest
from helpers import make_data, make_image_set, make_model, same, small

from evaluation.verdicts import remedies
from unlearn import METHODS
from unlearn.base import Iterative, OneShot

# Their training is the damage, not the repair.
PRUNED_BEFORE_ASCENT = {"GA_prune"}
PRUNED_ON_THE_WAY = {"FT_prune_bi"}


@pytest.mark.parametrize("name", METHODS)
def test_advice_names_what_the_method_has(name):
    method = METHODS[name]
    fields = {field.name: field.default for field in dataclasses.fields(method)}
    for advice in remedies(fields, method.breaks):
        assert {*re.findall(r"--(\w+)", advice)} <= fields.keys()
        assert "learning rate" not in advice or "unlearn_lr" in fields
        assert "epochs" not in advice or "unlearn_epochs" in fields


@pytest.mark.parametrize("name", [name for name in METHODS if issubclass(METHODS[name], OneShot)])
def test_advice_for_one_edit_is_on_its_own_flags(name):
    fields = {field.name: field.default for field in dataclasses.fields(METHODS[name])}
    for advice in remedies(fields, METHODS[name].breaks):
        assert "learning rate" not in advice
        assert bool(re.findall(r"--(\w+)", advice)) == bool(fields)


@pytest.mark.parametrize("name", [name for name in METHODS if issubclass(METHODS[name], Iterative)])
def test_who_breaks_the_model_first_is_told_to_repair_it(name):
    method, model = small(name), make_model()
    before = copy.deepcopy(model)
    if METHODS[name].needs_original:
        data = make_data(make_image_set(60, 24))
        method.prepare(model, data, None)
    broken = not same(model, before)
    wanted = (broken and name not in PRUNED_BEFORE_ASCENT) or name in PRUNED_ON_THE_WAY
    assert (METHODS[name].breaks is not None) == wanted
    assert {*(METHODS[name].breaks or ())} <= {field.name for field in dataclasses.fields(method)}
