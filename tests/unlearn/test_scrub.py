"""NegGrad+, SCRUB, bad teaching, amnesiac: losses against scipy and formulas, reductions to FT, GA
and RL bit for bit.
"""

import copy
import math

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from helpers import (
    CPU,
    TinyNet,
    first_batch,
    first_step,
    make_data,
    make_model,
    random_mask,
    run,
    same,
    settled,
)

import engine
from datasets.splits import choose_forget, validation_halves
from engine import Trainer, predict
from masks.gate import SaliencyGate
from models import initialise
from recipe import Recipe
from runtime.clock import Stopwatch
from stages.settings import recipe_of
from unlearn.amnesiac import Amnesiac
from unlearn.bad_teaching import BadTeaching
from unlearn.finetune import FineTune
from unlearn.gradient_ascent import GradientAscent
from unlearn.neggrad_plus import NegGradPlus
from unlearn.random_label import RandomLabel
from unlearn.scrub import Scrub, ScrubRewind
from unlearn.tools.held_out import held_out_like_forget
from unlearn.tools.splits import mixed, part_of
from unlearn.tools.teachers import divergence, frozen_copy
from utils import RunFailed, UserError, stream

PLAIN = {"unlearn_epochs": 2, "unlearn_lr": 0.05, "weight_decay": 0.0, "bn": "freeze"}


def prepared(method, model, data):
    method.prepare(model, data, None)
    return method


# ----------------------------------------------------------------------------------------- NegGrad+


@pytest.mark.parametrize("clip_forget", [True, False])
def test_neggrad_plus_with_all_weight_on_retain_is_finetuning_bit_for_bit(clip_forget):
    ours = run(
        NegGradPlus(**PLAIN, retain_share=1.0, clip_forget=clip_forget), make_model(), make_data()
    )
    assert same(ours, run(FineTune(**PLAIN), make_model(), make_data()))


def test_neggrad_plus_with_no_weight_on_retain_is_ascent_bit_for_bit():
    ours = run(
        NegGradPlus(**PLAIN, retain_share=0.0, clip_forget=False), make_model(), make_data(count=40)
    )
    assert same(ours, run(GradientAscent(**PLAIN), make_model(), make_data(count=40)))
    assert not same(ours, make_model())


@pytest.mark.parametrize(("share", "unread"), [(1.0, "forget"), (0.0, "retain")])
def test_neggrad_plus_does_not_read_what_has_no_weight(share, unread):
    data = make_data()
    setattr(data, unread, None)
    run(NegGradPlus(**PLAIN, retain_share=share), make_model(), data)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95, 1.0])
def test_neggrad_plus_counts_its_steps(share):
    data, model = make_data(count=40, batch_size=16), make_model().eval()
    method = NegGradPlus(retain_share=share)
    assert (
        sum(1 for _ in method.losses(model, data, 0))
        == method.steps(data, 0)
        == (len(data.retain) if share else len(data.forget))
    )


def test_neggrad_plus_loss_is_the_weighted_difference():
    data, model = make_data(), make_model().eval()
    (images, labels), (forget_images, forget_labels) = (
        first_batch(data.retain),
        first_batch(data.forget),
    )
    retain, forget = (
        F.cross_entropy(model(images), labels),
        F.cross_entropy(model(forget_images), forget_labels),
    )
    step = first_step(NegGradPlus(retain_share=0.7, clip_forget=False), data, model)
    torch.testing.assert_close(step.loss, 0.7 * retain - 0.3 * forget)
    torch.testing.assert_close(step.labels, labels)


def test_neggrad_plus_is_by_default_what_its_authors_ran_on_cifar():
    args, _ = settled("--unlearn", "neggrad_plus")
    wanted = {
        "retain_share": 0.9999,
        "unlearn_lr": 0.01,
        "unlearn_epochs": 5,
        "optimizer": "sgd",
        "momentum": 0.0,
        "weight_decay": 0.0,
        "bn": "train",
        "pull": 0.0,
        "no_aug": True,
    }
    assert {name: getattr(args, name) for name in wanted} == wanted


def test_the_small_scale_setting_pulls_to_the_original():
    args, _ = settled("--unlearn", "neggrad_plus", "--preset", "scrub_small")
    wanted = {
        "retain_share": 0.95,
        "unlearn_lr": 0.01,
        "unlearn_epochs": 10,
        "bn": "freeze",
        "momentum": 0.0,
        "weight_decay": 0.0,
    }
    assert {name: getattr(args, name) for name in wanted} == wanted
    assert args.pull > 0


@pytest.mark.parametrize(("share", "weight"), [(0.7, 0.7), (1.0, 1.0), (0.0, 0.0)])
def test_the_pull_is_half_the_squared_distance_beside_the_retain_loss(share, weight):
    """Without a retain loss there is none."""
    original, moved = make_model(), make_model(seed=5).eval()
    pulled, plain = (
        first_step(
            prepared(NegGradPlus(retain_share=share, pull=pull), original, make_data()),
            make_data(),
            moved,
        ).loss
        for pull in (0.3, 0.0)
    )
    distance = sum(
        float((a.detach() - b.detach()).square().sum())
        for a, b in zip(moved.parameters(), original.parameters(), strict=True)
    )
    assert distance > 1
    assert (pulled - plain).item() == pytest.approx(weight * 0.3 / 2 * distance, rel=1e-4)


def test_a_strong_pull_holds_the_weights_at_the_original():
    def distance(pull):
        model = run(
            NegGradPlus(**PLAIN, retain_share=0.5, pull=pull),
            make_model(),
            make_data(),
            momentum=0.0,
        )
        return (
            sum(
                float((a - b).detach().square().sum())
                for a, b in zip(model.parameters(), make_model().parameters(), strict=True)
            )
            ** 0.5
        )

    free, held = distance(0.0), distance(10.0)
    assert held < 0.5 * free


def test_the_pull_under_a_mask_is_of_what_may_change():
    """Frozen weights are at the original, whatever buffer they live in: a second run from a resumed
    state is pulled to the same place.
    """
    model, original = make_model(), make_model()
    mask = random_mask(model)
    method = NegGradPlus(**PLAIN, retain_share=0.5, pull=1.0)
    run(method, model, make_data(), mask)
    for name, value in original.named_parameters():
        assert torch.equal(dict(model.named_parameters())[name][~mask[name]], value[~mask[name]])
    assert all(
        torch.equal(a, b) for a, b in zip(method.original, original.parameters(), strict=True)
    )


def test_clipped_forget_samples_have_the_loss_of_a_guess_and_no_gradient():
    logits = torch.tensor(
        [[4.0, 0.0, 0.0, 0.0], [0.0, 4.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]], requires_grad=True
    )
    labels = torch.zeros(3, dtype=torch.int64)
    p = torch.softmax(logits.detach(), 1)
    assert (-p[:, 0].log() > math.log(4)).tolist() == [False, True, False]
    loss = NegGradPlus().forget_loss(logits, labels)
    torch.testing.assert_close(loss, (-p[0, 0].log() + math.log(4) - p[2, 0].log()) / 3)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[1].any()
    torch.testing.assert_close(gradient[[0, 2]], (p - F.one_hot(labels, 4))[[0, 2]] / 3)
    torch.testing.assert_close(
        NegGradPlus(clip_forget=False).forget_loss(logits, labels), F.cross_entropy(logits, labels)
    )


def test_the_guard_keeps_long_ascent_from_diverging():
    """Without it the forget loss overflows; with it, momentum carries a sample a little past log K
    and no further.
    """
    fields = PLAIN | {"unlearn_epochs": 20, "retain_share": 0.0}
    with pytest.raises(RunFailed, match="not finite"):
        run(NegGradPlus(**fields, clip_forget=False), make_model(), make_data(batch_size=8))
    data, model = make_data(batch_size=8), make_model()
    run(NegGradPlus(**fields), model, data)
    logits, labels = predict(model, data.evaluation["forget"])
    assert 0.8 * math.log(4) < F.cross_entropy(logits, labels).item() < 2 * math.log(4)


def test_forget_batches_are_cycled_in_seeded_orders_that_differ():
    """Each cycle holds every forget image once; brightness identifies an image of this data set."""
    data = make_data(augment=False, batch_size=8)
    batches = data.forget.cycled()
    cycles = [
        torch.cat([next(batches)[0].sum((1, 2, 3)) for _ in range(len(data.forget))])
        for _ in range(3)
    ]
    for cycle in cycles[1:]:
        torch.testing.assert_close(cycle.sort().values, cycles[0].sort().values)
        assert not torch.equal(cycle, cycles[0])
    again = torch.cat(
        [batch[0].sum((1, 2, 3)) for batch in make_data(augment=False, batch_size=8).forget]
    )
    assert torch.equal(again, cycles[0])


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (lambda: NegGradPlus(retain_share=1.1), "--retain_share 1.1"),
        (lambda: NegGradPlus(pull=-1.0), "--pull -1.0"),
        (lambda: Scrub(temperature=0.0), "--temperature 0.0"),
        (lambda: BadTeaching(retain_part=0.0), "--retain_part 0.0"),
    ],
)
def test_impossible_values_are_refused(method, message):
    with pytest.raises(UserError, match=message):
        method()


# ----------------------------------------------------------------------------------------- teachers


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_divergence_is_scipys_entropy_of_teacher_and_student(temperature):
    teacher, student = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0)) * 3
    p, q = (
        scipy.special.softmax(logits.double().numpy() / temperature, 1)
        for logits in (teacher, student)
    )
    ours = divergence(teacher, student, temperature)
    np.testing.assert_allclose(ours.numpy(), scipy.stats.entropy(p, q, axis=1), rtol=1e-4)
    log_q = F.log_softmax(student / temperature, 1)
    torch.testing.assert_close(
        ours.mean(), F.kl_div(log_q, torch.softmax(teacher / temperature, 1), reduction="batchmean")
    )


def test_divergence_of_bf16_logits_is_computed_in_fp32():
    teacher, student = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(divergence(teacher, student), divergence(teacher.float(), student.float()))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("make", [Scrub, BadTeaching], ids=lambda make: make.__name__)
def test_student_moves_and_teachers_do_not(make, gated):
    model, original = make_model(), make_model()
    method = make(unlearn_epochs=2)
    run(method, model, make_data(), random_mask(model) if gated else None)
    teacher = method.teacher if make is Scrub else method.good
    assert not same(model, original)
    assert same(teacher, original)
    storages = [
        {p.untyped_storage().data_ptr() for p in net.parameters()} for net in (model, teacher)
    ]
    assert not storages[0] & storages[1]
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not teacher.training


# -------------------------------------------------------------------------------------------- SCRUB


def test_scrub_without_climbs_and_distillation_is_finetuning_bit_for_bit():
    fields = {"unlearn_epochs": 2, "unlearn_lr": 0.05}
    ours = run(Scrub(**fields, msteps=0, alpha=0.0, gamma=1.0), make_model(), make_data())
    assert same(ours, run(FineTune(**fields), make_model(), make_data()))


def test_scrub_losses_are_the_papers():
    """Climb on forget, then descend on retain; the teacher's outputs as scipy sees them, in a
    student that has moved.
    """
    data, teacher, model = make_data(batch_size=1000), make_model(), make_model(seed=5).eval()
    method = prepared(Scrub(gamma=0.8, alpha=0.3, temperature=2.0, msteps=1), teacher, data)

    def distance(images):
        with torch.no_grad():
            p, q = (
                scipy.special.softmax(net.eval()(images).double().numpy() / 2, 1)
                for net in (teacher, model)
            )
        return 2**2 * scipy.stats.entropy(p, q, axis=1).mean()

    forget, retain = first_batch(data.forget), first_batch(data.retain)
    climb, descent = method.losses(model, data, 0)
    assert climb.loss.item() == pytest.approx(-distance(forget[0]), rel=1e-4)
    expected = 0.8 * F.cross_entropy(model(retain[0]), retain[1]).item() + 0.3 * distance(retain[0])
    assert descent.loss.item() == pytest.approx(expected, rel=1e-4)
    assert torch.equal(climb.labels, forget[1])
    assert torch.equal(descent.labels, retain[1])


def test_scrub_is_by_default_what_its_authors_ran_on_cifar():
    """Batches of 32 forget and 128 retain images, no augmentation: with one size of 256 it forgets
    nothing.
    """
    args, _ = settled("--unlearn", "scrub")
    wanted = {
        "unlearn_lr": 5e-4,
        "unlearn_epochs": 3,
        "gamma": 0.99,
        "alpha": 0.001,
        "temperature": 4.0,
        "msteps": 2,
        "optimizer": "sgd",
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "bn": "train",
        "no_aug": True,
        "batch_size": 128,
        "forget_batch_size": 32,
    }
    assert {name: getattr(args, name) for name in wanted} == wanted
    args, _ = settled("--unlearn", "scrub_r", "--batch_size", "256")
    assert args.forget_batch_size == 64


def test_the_small_scale_rate_falls_when_the_authors_does():
    """Theirs, with epochs from 1: a tenth for each of 3, 5, 9 that the epoch is above."""
    args, _ = settled("--unlearn", "scrub", "--preset", "scrub_small")
    factor = recipe_of(args, args.unlearn_epochs, from_scratch=False, precision="fp32").rate_factor(
        args.unlearn_epochs, args.unlearn_lr
    )
    theirs = [0.1 ** np.sum(epoch > np.array([3, 5, 9])) for epoch in range(1, 11)]
    for within in (0.01, 0.99):
        np.testing.assert_allclose([factor(epoch + within) for epoch in range(10)], theirs)


def test_rums_loop_climbs_in_one_epoch_more_than_its_msteps_says():
    args, _ = settled("--unlearn", "scrub", "--preset", "rum")
    data, model = make_data(count=40, batch_size=16), make_model().eval()
    method = prepared(Scrub(msteps=args.msteps), make_model(seed=1), data)
    climbs = [
        next(method.losses(model, data, epoch)).loss.item() < 0
        for epoch in range(args.unlearn_epochs)
    ]
    assert climbs == [epoch <= 4 for epoch in range(5)]  # their condition, with epochs from 0


def test_scrub_climbs_in_exactly_msteps_epochs():
    data, model = make_data(count=40, batch_size=16), make_model().eval()
    method = prepared(Scrub(msteps=2), make_model(seed=1), data)
    forget, retain = len(data.forget), len(data.retain)
    for epoch, expected in enumerate([forget + retain, forget + retain, retain, retain]):
        signs = [step.loss.item() < 0 for step in method.losses(model, data, epoch)]
        assert len(signs) == expected == method.steps(data, epoch)
        assert signs == [True] * (expected - retain) + [False] * retain


def test_a_climb_leaves_the_teacher_and_alpha_pulls_back_to_it():
    def distance(method, split):
        data, model = make_data(augment=False), make_model()
        run(method, model, data, momentum=0.0)
        images, _ = next(iter(data.evaluation[split]))
        with torch.no_grad():
            return divergence(make_model().eval()(images), model.eval()(images)).mean().item()

    fields = PLAIN | {"bn": "train", "unlearn_epochs": 3, "unlearn_lr": 0.2}
    assert distance(Scrub(**fields, msteps=3), "forget") > 1.1 * distance(
        Scrub(**fields, msteps=0), "forget"
    )
    near, far = (
        distance(Scrub(**fields, msteps=0, gamma=0.1, alpha=alpha), "retain")
        for alpha in (10.0, 0.0)
    )
    assert near < 0.8 * far


def test_with_frozen_batchnorm_the_first_climb_stands_still():
    """The divergence has its minimum, zero, at the original: the trap that the docstring names."""
    model, data = make_model().eval(), make_data()
    step = first_step(prepared(Scrub(), model, data), data, model)
    gradients = torch.autograd.grad(step.loss, list(model.parameters()))
    assert all(gradient.abs().max() < 1e-6 for gradient in gradients)


# ------------------------------------------------------------------------------------------ SCRUB+R


def rewound(request=None, **fields):
    """A finished SCRUB+R with its data, model and report, and the models before the first and after
    each epoch.
    """
    data, model = (
        make_data(**request or {}),
        run(FineTune(unlearn_epochs=4, unlearn_lr=0.1), make_model(), make_data(count=1)),
    )
    settings = {"unlearn_epochs": 5, "unlearn_lr": 0.02, "msteps": 2, "weight_decay": 0.0}
    method = ScrubRewind(**settings | fields)
    method.prepare(model, data, None)
    models = [copy.deepcopy(model)]
    trainer = Trainer(model, method, data, Recipe(), Stopwatch(CPU))
    trainer.fit(lambda epoch, stats: models.append(copy.deepcopy(model)))
    return method, data, model, models, method.finish(model, data)


def all_errors(data, models):
    """Each model's error on forget, counted anew from the arrays of the data set."""
    images = torch.from_numpy(data.dataset.x_train).permute(0, 3, 1, 2) / 255
    return [
        percent_wrong(net, images[data.chosen.forget], data.dataset.y_train[data.chosen.forget])
        for net in models
    ]


def percent_wrong(model, images, labels):
    model.eval()
    with torch.no_grad():
        return 100 * float(np.mean(model(images).argmax(1).numpy() != labels))


@pytest.mark.parametrize(
    "request_", [{"count": 16}, {"count": None, "class_to_forget": 1}], ids=["random", "class"]
)
def test_rewinding_takes_the_first_epoch_closest_to_unseen_images_of_the_same_kind(request_):
    """Whichever epoch's model stands for the finished one; the original, of epoch 0, is a
    candidate.
    """
    method, data, model, models, _ = rewound(request_)
    images = torch.from_numpy(data.dataset.x_train).permute(0, 3, 1, 2) / 255
    labels = data.dataset.y_train
    val = validation_halves(data.split, labels)[0]
    val = val if request_["count"] else val[labels[val] == 1]
    errors = all_errors(data, models)
    taken = set()
    for final in models:
        model.load_state_dict(final.state_dict())
        report = method.finish(model, data)
        target = percent_wrong(final, images[val], labels[val])
        gaps = [abs(e - target) for e in errors]
        chosen = report["chosen_epoch"]
        assert gaps[chosen] == pytest.approx(min(gaps))
        assert all(gap > gaps[chosen] for gap in gaps[:chosen])
        assert report["forget_error"] == pytest.approx(errors[chosen])
        assert report["held_out_error"] == pytest.approx(target)
        assert same(model, models[chosen])
        taken.add(chosen)
    assert len(taken) > 1


def test_of_equally_close_epochs_the_first_is_taken():
    """Two epochs with one model, and then all of them."""
    method, data, model, models, report = rewound()
    chosen = report["chosen_epoch"]
    assert chosen > 0
    method.snapshots = [method.snapshots[chosen - 1]] * 3
    model.load_state_dict(models[-1].state_dict())
    assert method.finish(model, data)["chosen_epoch"] == 1
    method.original = method.snapshots[0]
    model.load_state_dict(models[-1].state_dict())
    assert method.finish(model, data)["chosen_epoch"] == 0


def test_the_original_is_a_candidate():
    """Epochs that overshoot: the original's forget error is the closest to what the finished model
    makes on unseen images.
    """
    method, data, model, models, _ = rewound()
    wrecked = copy.deepcopy(models[-1].state_dict())
    wrecked["fc.bias"][0] += 1e3
    method.snapshots = [wrecked] * 5
    model.load_state_dict(models[-1].state_dict())
    report = method.finish(model, data)
    assert report["chosen_epoch"] == 0
    assert report["forget_error"] == pytest.approx(all_errors(data, models[:1])[0])
    assert same(model, models[0])


def test_snapshots_are_the_weights_after_each_epoch_and_not_views():
    method, _, model, models, _ = rewound()
    for snapshot, net in zip([method.original, *method.snapshots], models, strict=True):
        assert all(torch.equal(snapshot[name], value) for name, value in net.state_dict().items())
    before = copy.deepcopy([method.original, method.snapshots[-1]])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    for kept, snapshot in zip(before, [method.original, method.snapshots[-1]], strict=True):
        assert all(torch.equal(snapshot[name], value) for name, value in kept.items())


def test_rewinding_continues_from_its_state():
    method, data, model, models, report = rewound()
    resumed = prepared(ScrubRewind(unlearn_epochs=5), models[0], data)
    resumed.load_state(method.state())
    other = copy.deepcopy(models[-1])
    assert resumed.finish(other, data) == report
    assert same(other, model)


def test_rewinding_of_no_epoch_changes_nothing():
    data, model = make_data(), make_model()
    assert prepared(ScrubRewind(), model, data).finish(model, data) == {}
    assert same(model, make_model())


def test_held_out_images_are_of_the_forgotten_classes_and_missing_ones_are_refused():
    data = make_data(count=None, class_to_forget=2)
    assert data.evaluation["val"].num_samples == 12
    assert held_out_like_forget(data).labels.tolist() == [2] * 2
    positions = np.flatnonzero(data.dataset.y_train[data.split.train] % 3 == 0)[:20]
    data.chosen = choose_forget(data.split, data.dataset.y_train, positions=positions)
    assert set(held_out_like_forget(data).labels.tolist()) == {0, 3}
    object.__setattr__(data.split, "val", data.split.val[:0])
    with pytest.raises(UserError, match="use scrub"):
        ScrubRewind().prepare(make_model(), data, None)


# ------------------------------------------------------------------------------------- bad teaching


def test_bad_teacher_is_a_fresh_network_of_its_own_stream():
    data, model = make_data(), make_model()
    method = prepared(BadTeaching(), model, data)
    fresh = TinyNet().to(
        memory_format=torch.channels_last
    )  # a draw fills memory in order, whatever the layout means
    torch.manual_seed(stream(data.seed, "bad teacher"))
    initialise(fresh)
    images, _ = first_batch(data.forget)
    torch.testing.assert_close(method.bad(images), fresh_outputs(fresh, images))
    assert not same(method.bad, prepared(BadTeaching(), model, make_data(seed=4)).bad)
    assert same(method.good, model)


def fresh_outputs(net, images):
    """The network with new weights; normalisation is no weight and stays the model's own."""
    net.normalize = make_model().normalize
    return net.eval()(images)


def test_bad_teaching_loss_asks_each_sample_its_own_teacher():
    data, model = make_data(batch_size=1000, count=40), make_model(seed=5).eval()
    method = prepared(BadTeaching(), make_model(), data)
    (step,) = method.losses(model, data, 0)
    data.set_epoch(0)
    images, labels, is_forget = next(mixed(data.forget, part_of(data.retain, 0.3)))
    with torch.no_grad():
        probability = [
            scipy.special.softmax(net(images).double().numpy(), 1)
            for net in (method.good, method.bad, model)
        ]
    each = [
        scipy.stats.entropy(b if forgotten else p, q)
        for p, b, q, forgotten in zip(*probability, is_forget.tolist(), strict=True)
    ]
    assert step.loss.item() == pytest.approx(np.mean(each), rel=1e-4)
    assert is_forget.sum() == 40
    assert (~is_forget).sum() == int(0.3 * data.retain.num_samples)
    assert torch.equal(step.labels, labels)


def test_bad_teaching_uses_one_seeded_part_of_retain():
    data = make_data(augment=False, batch_size=1000)

    def retained():
        images, _, is_forget = next(mixed(data.forget, part_of(data.retain, 0.3)))
        return images[~is_forget].sum((1, 2, 3)).sort().values

    first = retained()
    data.set_epoch(1)
    assert torch.equal(first, retained())
    whole = {
        round(value, 3) for value in next(iter(data.retain.eval_view()))[0].sum((1, 2, 3)).tolist()
    }
    assert {round(value, 3) for value in first.tolist()} < whole


def test_bad_teaching_approaches_each_teacher_on_its_own_images():
    data, model = make_data(count=40, augment=False), make_model()
    images, _ = next(iter(data.evaluation["forget"]))
    method = BadTeaching(unlearn_epochs=30, unlearn_lr=0.02)

    def distances():
        with torch.no_grad():
            logits = model.eval()(images)
            return [
                divergence(teacher(images), logits).mean().item()
                for teacher in (method.bad, method.good)
            ]

    method.prepare(model, data, None)
    before = distances()
    run(method, model, data)
    after = distances()
    assert after[0] < before[0]
    assert after[1] > before[1] == 0


# ----------------------------------------------------------------------------------------- amnesiac


def test_amnesiac_is_random_labels_with_other_defaults_bit_for_bit():
    fields = {"unlearn_epochs": 3, "unlearn_lr": 1e-4, "optimizer": "adam", "weight_decay": 0.0}
    ours = run(Amnesiac(), make_model(), make_data())
    assert same(
        ours,
        run(
            RandomLabel(**fields, order="mixed", relabel="once", exclude_true=True),
            make_model(),
            make_data(),
        ),
    )
    assert not same(ours, run(RandomLabel(**fields), make_model(), make_data()))


def test_amnesiac_never_draws_the_true_label_nor_a_second_time():
    data = make_data(count=100)
    first = Amnesiac().random_labels(data)
    assert not (first == data.forget.labels).any()
    data.set_epoch(1)
    assert torch.equal(first, Amnesiac().random_labels(data))
    assert Amnesiac.masked_label != RandomLabel.masked_label


def test_frozen_copy_follows_no_gate():
    """Under a mask the student's weights live in one flat buffer; the copy must not be a view of
    it.
    """
    model = make_model()
    gate = SaliencyGate(model, random_mask(model))
    teacher = frozen_copy(model)
    gate.flat.add_(1)
    assert same(teacher, make_model())


def test_the_epoch_is_selected_by_the_half_of_validation_that_the_method_has_not_read(monkeypatch):
    seen = []
    monkeypatch.setattr(engine.Selection, "look", lambda self, epoch: seen.append(self.val))
    data = make_data()
    halves = validation_halves(data.split, data.dataset.y_train)
    for make in (ScrubRewind, Scrub):
        engine.run(make_model(), make(unlearn_epochs=1), data, Recipe(select="best"))
    assert seen[0].indices.tolist() == halves[1].tolist()
    assert seen[1].indices.tolist() == data.split.val.tolist()


def test_an_optimizer_of_forget_steps_wants_forget_steps():
    with pytest.raises(UserError, match="--msteps 0 has one phase"):
        Scrub(msteps=0, forget_optimizer="adamw", forget_lr=1e-4)


@pytest.mark.parametrize("method", [Scrub, NegGradPlus])
def test_rums_values_are_augmented(method):
    assert method.presets["rum"].values["no_aug"] is False
