"""The loop: schedules against torch's, failures told, BatchNorm, clipping, meters, and the
evaluation pass.
"""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from helpers import CPU, make_data, make_model, train_epoch
from torch.torch_version import TorchVersion

from engine import check_batch_norm, predict
from masks.gate import SaliencyGate
from models import MODELS
from recipe import learning_rate_factor, make_optimizer, make_scheduler
from training.meter import Meter, check_finite
from unlearn.base import Step, cross_entropy_steps
from unlearn.gradient_ascent import GradientAscent
from unlearn.random_label import RandomLabel
from utils import RunFailed, UserError


def trace(factor, epochs, steps, lr=0.013):
    """The learning rate of every update, as the scheduler sets it."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make_scheduler(optimizer, factor, [steps] * epochs)
    rates = []
    for _ in range(epochs * steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_multistep_equals_torch_and_fires_in_short_runs():
    rates = trace(learning_rate_factor("multistep", 12, milestones=(6, 9)), 12, 5)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.013)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [6, 9], gamma=0.1)
    expected = []
    for _ in range(12):
        expected += [optimizer.param_groups[0]["lr"]] * 5
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx(expected, rel=1e-12)


def test_cosine_equals_torch_at_half_steps_and_reaches_zero():
    """CosineAnnealingLR over 2 x steps half-updates, read at the odd ones: the middle of each
    update.
    """
    rates = trace(learning_rate_factor("cosine", 4), 4, 6)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.013)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 48)
    halves = []
    for _ in range(48):
        halves.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx(halves[1::2], rel=1e-9)
    assert rates[-1] < 0.013 / 100


def test_official_bug_warmup_destroys_unlearn_lr():
    """Warm-up climbs to the optimizer's own rate and leaves it there."""
    rates = trace(learning_rate_factor("constant", 3, warmup=1), 3, 10)
    assert rates[:10] == pytest.approx([0.013 * (i + 0.5) / 10 for i in range(10)])
    assert rates[10:] == pytest.approx([0.013] * 20)


def test_schedule_goes_by_epochs_where_they_differ_in_length():
    """A cosine over epochs of 2, 0 and 4 updates: each update stands at its epoch and its share of
    it.
    """
    factor = learning_rate_factor("cosine", 3)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make_scheduler(optimizer, factor, [2, 0, 4])
    rates = []
    for _ in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([factor(at) for at in (0.25, 0.75, 2.125, 2.375, 2.625, 2.875)])


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_optimizers_equal_torchs_own_loops(kind):
    plain = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind]
    options = {"momentum": 0.9} if kind == "sgd" else {}
    models = make_model(), make_model()
    ours = make_optimizer(models[0].parameters(), 0.01, 0.9, 1e-2, kind)
    theirs = plain(models[1].parameters(), 0.01, weight_decay=1e-2, foreach=False, **options)
    for model, optimizer in zip(models, (ours, theirs), strict=True):
        # In train mode the bias before BatchNorm has a gradient of rounding alone, which Adam blows
        # up
        model.eval()
        for images, labels in make_data().retain:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("version", "device", "fused"),
    [
        ("2.4.1", "mps", False),
        ("2.4.1", "cuda", True),
        ("2.4.1", "cpu", True),
        ("2.5.0", "mps", True),
        ("2.14.1+cu130", "mps", True),
    ],
)
def test_optimizers_are_fused_where_torch_has_the_kernels(version, device, fused, monkeypatch):
    monkeypatch.setattr(torch, "__version__", TorchVersion(version))
    monkeypatch.setattr(
        torch.optim, "SGD", lambda parameters, **options: (len(parameters), options["fused"])
    )
    assert make_optimizer(iter([SimpleNamespace(device=torch.device(device))]), 0.1, 0.9, 0.0) == (
        1,
        fused,
    )


def test_projection_follows_the_update_and_the_gate_follows_the_projection():
    model, data = make_model(), make_data()
    original = copy.deepcopy(model)
    mask = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in model.named_parameters()}
    mask["fc.weight"][0] = True
    gate = SaliencyGate(model, mask)
    seen = []

    def zero(lr):
        assert lr == 0.1
        assert not torch.is_grad_enabled()
        seen.append(not torch.equal(model.fc.weight[0], original.fc.weight[0]))
        for parameter in model.parameters():
            parameter.zero_()

    def steps():
        for step in cross_entropy_steps(model, data.forget):
            yield step._replace(project=zero)
            assert not model.fc.weight[0].any()
            assert torch.equal(model.fc.weight[1:], original.fc.weight[1:])

    train_epoch(model, steps(), make_optimizer(model.parameters(), 0.1, 0.9, 5e-4), gate=gate)
    assert seen == [True]
    assert torch.equal(model.conv.weight, original.conv.weight)


def test_projection_gets_the_learning_rate_of_the_update_before_it():
    """Under plain SGD without momentum the update is -lr times the gradient, so the step itself
    tells the rate.
    """
    weight, given, made = torch.nn.Parameter(torch.zeros(())), [], []

    def steps():
        for _ in range(6):
            before = weight.detach().clone()
            yield Step(
                weight * 1.0, torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64), given.append
            )
            made.append(float(before - weight.detach()))

    optimizer = make_optimizer([weight], 0.1, 0.0, 0.0)
    scheduler = make_scheduler(optimizer, learning_rate_factor("cosine", 2), [3, 3])
    train_epoch(torch.nn.Module(), steps(), optimizer, scheduler=scheduler)
    assert given == pytest.approx(made, abs=1e-6)
    assert len(set(given)) == 6


def test_published_milestones_are_91_and_136_of_182():
    factor = learning_rate_factor(
        "multistep", 182, milestones=tuple(share * 182 for share in (91 / 182, 136 / 182))
    )
    assert [factor(e) for e in (0, 90.99, 91, 135.99, 136, 181)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )


def losses_of(values, parameter):
    for value in values:
        yield Step(
            parameter.sum() * 0 + value, torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64)
        )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("print_freq", [1, 2, 50])
def test_non_finite_loss_stops_the_run_and_names_its_first_step(bad, print_freq):
    model = make_model()
    steps = losses_of([1.0, 1.0, 1.0, bad, 1.0, bad], model.fc.bias)
    with pytest.raises(RunFailed, match="step 4 "):
        train_epoch(
            model,
            steps,
            make_optimizer(model.parameters(), 0.1, 0.9, 0),
            print_freq=print_freq,
        )


def test_non_finite_weight_is_found():
    model = make_model()
    check_finite(model)
    with torch.no_grad():
        model.conv.weight[0, 0, 0, 0] = float("inf")
    with pytest.raises(RunFailed, match="weight"):
        check_finite(model)


def test_a_weight_that_no_loss_shows_is_found_at_the_next_look():
    model, data = make_model(), make_data()
    model.unused = torch.nn.Parameter(torch.zeros(2))
    seen = []

    def spoil(lr):
        seen.append(lr)
        if len(seen) == 3:
            model.unused[0] = float("nan")

    steps = (step._replace(project=spoil) for step in cross_entropy_steps(model, data.retain))

    def sent():
        yield from steps

    with pytest.raises(
        RunFailed, match=r"a weight .* not finite after step 4 of epoch 7/9; .*lower learning rate"
    ):
        train_epoch(
            model,
            sent(),
            make_optimizer(model.conv.parameters(), 0.1, 0, 0),
            print_freq=2,
            title="epoch 7/9",
            total=5,
        )
    assert len(seen) == 4


def test_nothing_is_kept_of_a_run_that_went_wrong_nor_after_the_last_step():
    for bad_step, expected in ((2, [1]), (9, [1, 2, 3])):
        model, kept = make_model(), []

        def steps(model=model, bad_step=bad_step):
            for number in range(1, 5):
                logits = model(torch.rand(4, 3, 8, 8))
                loss = F.cross_entropy(logits, torch.arange(4))
                yield Step(loss * (torch.inf if number == bad_step else 1), logits, torch.arange(4))

        def run(model=model, kept=kept, steps=steps):
            train_epoch(
                model,
                steps(),
                make_optimizer(model.parameters(), 0.1, 0, 0),
                total=4,
                save_every=1,
                title="epoch 1/2",
                keep=lambda meter: kept.append(meter["steps"]),
            )

        if bad_step == 2:
            with pytest.raises(
                RunFailed,
                match="loss was not finite at step 2 of epoch 1/2; what was saved before stays",
            ):
                run()
        else:
            run()
        assert kept == expected


def test_a_meter_that_goes_on_counts_as_one_that_never_stopped():
    model, data = make_model(), make_data()
    model.eval()
    whole, first = Meter(CPU, 0.2), Meter(CPU, 0.3)
    for number, step in enumerate(cross_entropy_steps(model, data.retain)):
        whole.update(step)
        if number == 1:
            first.load_state(copy.deepcopy(whole.state()))
        elif number > 1:
            first.update(step)
    assert first.read(0.1) == whole.read(0.1)


def test_a_batch_of_one_image_is_said_and_batches_of_one_image_are_refused(capsys):
    alone, few = make_data(count=1), make_data(count=5)
    assert check_batch_norm(make_model(), GradientAscent(), alone)
    assert "running statistics on batches of one forget image" in capsys.readouterr().out
    assert not check_batch_norm(make_model(), GradientAscent(bn="freeze"), alone)
    assert not check_batch_norm(torch.nn.Linear(2, 2), GradientAscent(), alone)
    assert not check_batch_norm(make_model(), GradientAscent(), few)
    assert "batches of 5 forget images" in capsys.readouterr().err
    with pytest.raises(
        UserError, match="BatchNorm cannot train on one image: --batch_size 1 is too small"
    ):
        check_batch_norm(make_model(), GradientAscent(), make_data(count=5, batch_size=1))


def test_one_image_is_normalised_by_running_statistics_also_where_it_is_one_pixel():
    """One image of 8x8 is one pixel to the last layers of a ResNet-18: by the batch's statistics
    its features would all be zero.
    """
    for model in (make_model(), MODELS["resnet18"](4)):
        data, frozen, before = make_data(count=1), copy.deepcopy(model), buffers(model)
        for network, options in ((model, {"one_image": True}), (frozen, {"freeze_bn": True})):
            data.set_epoch(0)
            optimizer = make_optimizer(network.parameters(), 0.1, 0.9, 0)
            train_epoch(network, GradientAscent().losses(network, data, 0), optimizer, **options)
        assert all(
            torch.equal(a, b) for a, b in zip(model.parameters(), frozen.parameters(), strict=True)
        )
        assert all(torch.equal(value, before[name]) for name, value in buffers(model).items())
        assert all(module.training for module in model.modules()), "the mode is back after the step"
        # Larger batches in the same epoch are normalised by themselves.
        train_epoch(
            model,
            RandomLabel().losses(model, data, 0),
            make_optimizer(model.parameters(), 0, 0, 0),
            one_image=True,
        )
        assert not all(torch.equal(value, before[name]) for name, value in buffers(model).items())


def test_a_single_value_per_channel_fails_in_one_line():
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.BatchNorm1d(192), torch.nn.Linear(192, 4)
    )
    steps = cross_entropy_steps(model, make_data(count=1).forget)
    with pytest.raises(RunFailed, match="one image"):
        train_epoch(model, steps, make_optimizer(model.parameters(), 0.1, 0, 0))


def test_loss_without_gradient_is_refused():
    model = make_model()
    step = Step(torch.tensor(1.0), torch.zeros(1, 4), torch.zeros(1))
    with pytest.raises(AssertionError, match="gradient"):
        train_epoch(model, iter_steps(step), make_optimizer(model.parameters(), 0.1, 0, 0))


def iter_steps(*steps):
    yield from steps


def test_an_update_is_made_before_the_method_goes_on():
    model, moved = make_model(), []

    def steps():
        for _ in range(2):
            before = model.fc.bias.detach().clone()
            logits = model(torch.rand(4, 3, 8, 8))
            yield Step(F.cross_entropy(logits, torch.arange(4)), logits, torch.arange(4))
            moved.append(not torch.equal(before, model.fc.bias))

    train_epoch(model, steps(), make_optimizer(model.parameters(), 0.1, 0.9, 0))
    assert moved == [True, True]


def buffers(model):
    return {name: value.clone() for name, value in model.named_buffers()}


def test_frozen_batchnorm_keeps_its_buffers_bit_for_bit_and_the_default_moves_them():
    for freeze in (True, False):
        model, data = make_model(), make_data()
        before = buffers(model)
        train_epoch(
            model,
            cross_entropy_steps(model, data.retain),
            make_optimizer(model.parameters(), 0.1, 0.9, 0),
            freeze_bn=freeze,
        )
        after = buffers(model)
        assert all(
            torch.equal(before[name], after[name])
            for name in before
            if name.startswith("normalize")
        )
        assert all(
            torch.equal(before[name], after[name]) == freeze
            for name in before
            if name.startswith("bn")
        )


def test_stats_are_the_means_over_samples():
    model, data = make_model(), make_data(batch_size=33)
    reference, total, right = copy.deepcopy(model).train(), 0.0, 0
    for images, labels in make_data(batch_size=33).retain:
        logits = reference(images)
        total += float(F.cross_entropy(logits, labels, reduction="sum").detach())
        right += int((logits.argmax(1) == labels).sum())
    stats = train_epoch(
        model,
        cross_entropy_steps(model, data.retain),
        make_optimizer(model.parameters(), 0.0, 0.0, 0.0),
    )
    assert stats.loss == pytest.approx(total / data.retain.num_samples, rel=1e-5)
    assert stats.accuracy == pytest.approx(100 * right / data.retain.num_samples)


def test_predict_is_a_plain_eval_pass_in_order_in_fp32():
    model, data = make_model(), make_data()
    logits, labels = predict(model, data.evaluation["test"])
    images = torch.from_numpy(data.dataset.x_test).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        expected = model.eval()(images)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert logits.dtype == torch.float32
    assert torch.equal(labels, torch.from_numpy(data.dataset.y_test))


# ------------------------------------------------------------------------------------- accumulation


def trained(batch_size, accumulate, *, total=True, gate=False, clip_norm=0.0, schedule="cosine"):
    """A TinyNet after two epochs on retain (124 images) with BatchNorm frozen."""
    data, model = make_data(count=20, batch_size=batch_size), make_model()
    steps = len(data.retain)
    optimizer = make_optimizer(model.parameters(), 0.1, 0.9, 5e-4)
    scheduler = make_scheduler(
        optimizer, learning_rate_factor(schedule, 2), [-(-steps // accumulate)] * 2
    )
    mask = {
        name: torch.rand(value.shape, generator=torch.Generator().manual_seed(3)) > 0.5
        for name, value in model.named_parameters()
    }
    saliency = SaliencyGate(model, mask) if gate else None
    for epoch in range(2):
        data.set_epoch(epoch)
        stats = train_epoch(
            model,
            cross_entropy_steps(model, data.retain),
            optimizer,
            freeze_bn=True,
            accumulate=accumulate,
            gate=saliency,
            total=steps if total else None,
            clip_norm=clip_norm,
            scheduler=scheduler,
        )
    return model, stats


@pytest.mark.parametrize(
    "options", [{}, {"gate": True}, {"clip_norm": 0.1}, {"gate": True, "clip_norm": 0.1}], ids=str
)
def test_accumulated_batches_are_the_large_batch(options):
    """Also the last update of an epoch, of 28 images in batches of 8, 8, 8 and 4, and the schedule,
    which counts updates.
    """
    (large, whole), (small, parts) = trained(32, 1, **options), trained(8, 4, **options)
    for a, b in zip(large.parameters(), small.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-4)
    assert parts.lr == pytest.approx(whole.lr)
    other, _ = trained(8, 1, **options)
    assert any(
        not torch.allclose(a, b, atol=1e-4)
        for a, b in zip(large.parameters(), other.parameters(), strict=True)
    )


def test_batches_that_are_left_over_are_an_update_too():
    """An epoch whose length is not told ends with the same last update."""
    (told, _), (untold, _) = (
        trained(8, 3, total=total, schedule="constant") for total in (True, False)
    )
    assert all(
        torch.equal(a, b) for a, b in zip(told.parameters(), untold.parameters(), strict=True)
    )


def test_a_step_that_is_no_update_leaves_the_weights():
    data, model, moved, kept = make_data(count=20, batch_size=16), make_model(), [], []

    def losses():
        for step in cross_entropy_steps(model, data.retain):
            before = model.fc.bias.detach().clone()
            yield step
            moved.append(not torch.equal(before, model.fc.bias))

    optimizer = make_optimizer(model.parameters(), 0.1, 0.9, 0.0)
    loop = {
        "accumulate": 3,
        "total": len(data.retain),
        "save_every": 2,
        "keep": lambda meter: kept.append(meter["steps"]),
    }
    train_epoch(model, losses(), optimizer, **loop)
    assert moved == [False, False, True, False, False, True, False, True]
    assert kept == [3, 6]  # only where an update has used every gradient
