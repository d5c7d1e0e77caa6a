"""NegMerge: signs that agree, moves of zero, and the runs against fine-tunings made one by one."""

import pytest
import torch
from helpers import check_resume, make_data, make_model, random_mask, run

from unlearn.negmerge import NegMerge
from utils import UserError


def merged(moves, alpha=1.0):
    """The weights (n,) after merging hand-made moves (m, n) of the original's zeros."""
    model = torch.nn.Linear(len(moves[0]), 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    method = NegMerge(unlearn_epochs=len(moves), alpha=alpha)
    method.prepare(model, None, None)
    for epoch, move in enumerate(moves):
        assert method.resets(epoch)
        method.moves.put_back(model)
        assert not model.weight.any()
        model.weight.data[0] = torch.tensor(move)
        method.moves.add(model)
    report = method.finish(model, None)
    return model.weight[0].tolist(), report["agreed"]


def test_what_agrees_is_averaged_and_subtracted_and_the_rest_stays():
    """Agreeing up, agreeing down, one against, one that did not move, none that moved."""
    moves = [[1.0, -2.0, 3.0, 0.0, 0.0], [2.0, -4.0, -1.0, 5.0, 0.0], [3.0, -6.0, 1.0, 5.0, 0.0]]
    found, agreed = merged(moves)
    assert found == pytest.approx([-2, 4, 0, 0, 0])
    assert agreed == pytest.approx(40)
    assert merged(moves, alpha=0.5)[0] == pytest.approx([-1, 2, 0, 0, 0])


def test_one_run_is_the_negation_of_its_move():
    assert merged([[1.0, -2.0, 0.0]])[0] == pytest.approx([-1, 2, 0])


def test_rates_are_spread_evenly_in_the_logarithm():
    method = NegMerge(unlearn_epochs=6, epochs_each=2, spread=4.0)
    assert [method.rate_factor(e) for e in range(6)] == pytest.approx([1 / 4, 1 / 4, 1, 1, 4, 4])
    assert [method.resets(e) for e in range(6)] == [True, False] * 3
    assert NegMerge(unlearn_epochs=2, epochs_each=2).rate_factor(1) == 1


def test_the_runs_are_fine_tunings_of_the_original_one_by_one():
    """Each from the original with a new optimizer, on the batches of its epochs; merged by hand."""
    fields = {"weight_decay": 0.0}
    start = make_model()
    ours = run(
        NegMerge(unlearn_epochs=3, unlearn_lr=0.05, spread=3.0, alpha=0.7),
        make_model(),
        make_data(count=40, batch_size=16),
    )
    moves = []
    for number, rate in enumerate((0.05 / 3, 0.05, 0.15)):
        model, data = make_model().train(), make_data(count=40, batch_size=16)
        data.set_epoch(number)
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, **fields)
        for images, labels in data.forget:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        pairs = zip(model.parameters(), start.parameters(), strict=True)
        moves.append([(a - b).detach() for a, b in pairs])
    for i, (now, before) in enumerate(zip(ours.parameters(), start.parameters(), strict=True)):
        each = torch.stack([move[i] for move in moves])
        agree = (each > 0).all(0) | (each < 0).all(0)
        expected = before - 0.7 * torch.where(agree, each.mean(0), 0.0)
        torch.testing.assert_close(now, expected, rtol=1e-4, atol=1e-6)
        assert torch.equal(now[~agree], before[~agree])
    for now, before in zip(ours.buffers(), start.buffers(), strict=True):
        assert torch.equal(now, before)


def test_negation_forgets_and_weight_decay_is_zero():
    assert NegMerge().weight_decay == 0
    data, model = make_data(batch_size=1000, augment=False), make_model()
    images, labels = next(iter(data.forget.eval_view()))

    def loss(model):
        return torch.nn.functional.cross_entropy(model.eval()(images), labels).item()

    before = loss(make_model())
    run(NegMerge(unlearn_epochs=3, unlearn_lr=1e-3, bn="freeze"), model, data)
    assert loss(model) > before


def test_a_mask_keeps_what_it_freezes():
    model, mask = make_model(), random_mask(make_model())
    run(NegMerge(unlearn_epochs=2), model, make_data(), mask)
    for name, before in make_model().named_parameters():
        now = dict(model.named_parameters())[name]
        assert torch.equal(now[~mask[name]], before[~mask[name]])


@pytest.mark.parametrize(
    "fields",
    [{"epochs_each": 0}, {"unlearn_epochs": 5, "epochs_each": 2}, {"spread": 0.5}],
    ids=str,
)
def test_impossible_values_are_refused(fields):
    with pytest.raises(UserError, match=f"--{[*fields][-1]}"):
        NegMerge(**fields)


def test_it_goes_on_bit_for_bit():
    check_resume(lambda: NegMerge(unlearn_epochs=2, unlearn_lr=0.05))
    check_resume(lambda: NegMerge(unlearn_epochs=2, epochs_each=2), random_mask(make_model()))
