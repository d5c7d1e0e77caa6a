"""Requests made by hand: their words, paths and names, and the command that results record."""

from pathlib import Path

import pytest

from arg_parser import audit_request, mask_request, train_request, unlearn_request
from runtime.provenance import calling, current_call
from stages.requests import AuditRequest, MaskRequest, TrainRequest, UnlearnRequest, recording
from utils import UserError

BY_HAND = [
    (TrainRequest.of(), train_request),
    (TrainRequest.of(arch="resnet20s", epochs=3, lr=0.1, save_dir="a b", seed=0), train_request),
    (TrainRequest.of(decreasing_lr=(2, 3), no_aug=True, tensorboard=False), train_request),
    (TrainRequest.of(no_aug=False, select=None, overwrite=True), train_request),
    (MaskRequest.of(score="layers", layers=("conv1", "fc"), model_path="m.pt"), mask_request),
    (UnlearnRequest.of(unlearn="RL", exclude_true=False, class_to_replace=-1), unlearn_request),
    (UnlearnRequest.of(unlearn="NegGrad+", unlearn_epochs=2, dry_run=True), unlearn_request),
    (UnlearnRequest.of(indexes_to_replace="1,5,9", model_path=Path("m.pt")), unlearn_request),
]


def in_force(request):
    """The values of a request, without what asks for nothing."""
    typed = {name: value for name, value in request.values().items() if name in request.typed}
    return request.replace(typed=frozenset()), {
        name: value for name, value in typed.items() if value not in (None, False)
    }


@pytest.mark.parametrize(("request_by_hand", "parse"), BY_HAND)
def test_words_ask_for_the_same(request_by_hand, parse):
    words = request_by_hand.words()
    assert all(isinstance(word, str) for word in words)
    assert in_force(parse(words)) == in_force(request_by_hand)


def test_a_method_under_a_mask_is_asked_for_by_its_words():
    request = UnlearnRequest.of(unlearn="salun", mask_path="with_0.5.pt")
    assert request.words() == ["--unlearn=RL", "--mask_path=with_0.5.pt"]
    assert request.mask_path == Path("with_0.5.pt")
    assert request.typed == {"unlearn", "mask_path"}


def test_a_name_that_nothing_reads_is_refused():
    with pytest.raises(UserError, match="unlearn_epoch"):
        UnlearnRequest.of(unlearn="RL", unlearn_epoch=3)
    with pytest.raises(UserError, match="'magic' is no method; known are"):
        UnlearnRequest.of(unlearn="magic")
    with pytest.raises(TypeError, match="epoch"):
        TrainRequest.of(epoch=3)


def test_a_stage_records_the_running_script_or_its_own_words():
    stage = recording(lambda request: current_call.get().command)
    assert stage(TrainRequest.of(lr=0.5)) == ["main_train.py", "--lr=0.5"]
    assert stage(MaskRequest.of(seed=3)) == ["generate_mask.py", "--seed=3"]
    random = UnlearnRequest.of(unlearn="FT", script="main_random")
    assert stage(random) == ["main_random.py", "--unlearn=FT"]
    with calling("sweep.py", ["plan.json"]):
        assert stage(TrainRequest.of(lr=0.5)) == ["sweep.py", "plan.json"]
    assert current_call.get() is None


def test_an_audit_by_hand_records_a_command_that_asks_for_the_same():
    asked = AuditRequest(
        models=("a.pth", "b c.pth"), retrain=("r.pth",), original=Path("o.pth"), suite="standard"
    )
    script, *words = recording(lambda request: current_call.get().command)(asked)
    assert script == "evaluate.py"
    assert audit_request(words, "", ("basic", "standard")) == asked
