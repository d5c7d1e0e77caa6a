"""LoTUS: its temperature, its targets as Gumbel samples, and where it stops."""

import math

import pytest
import scipy.stats
import torch
from helpers import check_resume, make_data, make_image_set, make_model, run, same, settled

from datasets.splits import validation_halves
from unlearn.lotus import Lotus
from unlearn.tools import gumbel
from unlearn.tools.held_out import Lead
from utils import UserError


def prepared(data, model=None, **fields):
    method = Lotus(**fields)
    method.prepare(model or make_model(), data, None)
    return method


def accuracy(model, data, indices):
    images = torch.from_numpy(data.dataset.x_train[indices]).permute(0, 3, 1, 2) / 255
    right = model.eval()(images).argmax(1).numpy() == data.dataset.y_train[indices]
    return right.mean()


@pytest.mark.parametrize("class_to_forget", [-1, 1])
def test_what_the_temperature_is_made_of(class_to_forget):
    """The model's accuracy on forget above the original's on half A; above 0 for a whole class."""
    data = make_data(count=None if class_to_forget == 1 else 16, class_to_forget=class_to_forget)
    method = prepared(data)
    moved = make_model(seed=5)
    half = validation_halves(data.split, data.dataset.y_train)[0]
    unseen = 0 if class_to_forget == 1 else accuracy(make_model(), data, half)
    expected = accuracy(moved, data, data.chosen.forget) - unseen
    assert method.lead.of(moved) == pytest.approx(expected, abs=1e-6)


class Student(torch.nn.Module):
    """A model whose gradient with respect to its logits tells the target: softmax - target."""

    def __init__(self, classes=4):
        super().__init__()
        self.classes, self.weight = classes, torch.nn.Parameter(torch.zeros(()))
        self.logits = []

    def forward(self, images):
        out = torch.zeros(len(images), self.classes).requires_grad_() + self.weight
        out.retain_grad()
        self.logits.append(out)
        return out


def one_epoch(method, data, above):
    """The targets (n, k) and the teacher's log-probabilities (n, k) of an epoch's images."""
    method.above, student, asked, found = above, Student(), [], []
    ask = gumbel.ask
    try:
        gumbel.ask = lambda teacher, images: asked.append(ask(teacher, images)) or asked[-1]
        method.lead.of = lambda model: above
        for step in method.losses(student, data, 0):
            step.loss.backward()
            n = len(step.labels)
            found.append(1 / 4 - n * student.logits[-1].grad)
    finally:
        gumbel.ask = ask
    return torch.cat(found), torch.cat(asked).log_softmax(1)


def test_retain_targets_are_one_class_drawn_from_the_originals_softmax():
    """Chi-square against the sums of the probabilities; all images but the forget ones."""
    data = make_data(make_image_set(train=8000), count=10, augment=False)
    found, logs = one_epoch(prepared(data, retain_part=1.0), data, above=0.0)
    hard = (found.max(1).values > 1 - 1e-5) & (found.sum(1) - 1 < 1e-4)
    assert hard.sum() >= data.retain.num_samples
    drawn, p = found[hard].argmax(1).bincount(minlength=4), logs[hard].double().exp().sum(0)
    assert scipy.stats.chisquare(drawn.numpy(), (p / p.sum() * drawn.sum()).numpy()).pvalue > 1e-4


@pytest.mark.parametrize("above", [0.0, 0.4])
def test_forget_targets_are_soft_gumbel_samples_at_the_temperature(above):
    """tau log t_k + const is log p_k + noise: its differences have the variance of two Gumbels."""
    data = make_data(make_image_set(train=8000), count=4000, augment=False)
    method, alpha = prepared(data, retain_part=0.001), 2.0
    method.alpha, tau = alpha, math.exp(alpha * above)
    found, logs = one_epoch(method, data, above)
    soft = found.min(1).values > 1e-6
    assert soft.float().mean() > 0.5
    difference = tau * (found[:, 0].log() - found[:, 1].log()) - (logs[:, 0] - logs[:, 1])
    kept = difference[(found[:, :2] > 1e-5).all(1)]
    # The difference of two standard Gumbel variables is logistic.
    middle = kept[kept.abs() < 3].numpy()
    cut = scipy.stats.logistic.cdf(3)
    share = lambda x: (scipy.stats.logistic.cdf(x) - (1 - cut)) / (2 * cut - 1)  # noqa: E731
    assert scipy.stats.kstest(middle, share).pvalue > 1e-4


def test_it_stops_after_the_epoch_whose_forget_accuracy_is_a_point_below(monkeypatch):
    """The first look is before the run; the third epoch ends a point below."""
    data, made = make_data(), []
    method, above = Lotus(unlearn_epochs=5, unlearn_lr=0.01), iter([0.3, 0.02, -0.009, -0.01, 0.5])
    monkeypatch.setattr(Lead, "of", lambda lead, model: next(above))
    losses = method.losses

    def counted(model, data, epoch):
        steps = 0
        for step in losses(model, data, epoch):
            steps += 1
            yield step
        made.append(steps)

    method.losses = counted
    run(method, make_model(), data)
    whole = len(method.loaders(data)[0])
    assert made == [whole, whole, whole, 0, 0]
    assert method.finish(make_model(), data) == {"stopped_after_epoch": 3}
    assert method.steps(data, 4) == 0


def test_it_does_not_begin_where_forget_is_below_unseen_images_already(monkeypatch):
    data, model = make_data(), make_model()
    monkeypatch.setattr(Lead, "of", lambda lead, model: -0.01)
    method = Lotus(unlearn_epochs=2)
    run(method, model, data)
    assert same(model, make_model())
    assert method.finish(model, data) == {"stopped_after_epoch": 0}


def test_a_run_of_all_epochs_reports_no_stop():
    data = make_data(count=None, class_to_forget=1)
    method = prepared(data, unlearn_epochs=2)
    run(method, make_model(), data)
    assert method.finish(make_model(), data) == {}


@pytest.mark.parametrize(
    ("dataset", "arch", "alpha"),
    [
        ("cifar10", "resnet18", 8),
        ("cifar10", "vgg16_bn", 2),
        ("cifar100", "resnet18", 2),
        ("digits", "resnet20s", 2),
    ],
)
def test_alpha_depends_on_data_set_and_network_as_in_the_authors_code(dataset, arch, alpha):
    words = ["--unlearn", "lotus", "--dataset", dataset, "--arch", arch]
    assert settled(*words)[0].alpha == alpha
    assert settled(*words, "--alpha", 3)[0].alpha == 3


def test_the_measure_leaves_the_model_in_its_mode():
    data, model = make_data(), make_model().train()
    model.bn.eval()
    method = prepared(data, model)
    before = make_model()
    method.lead.of(model)
    assert model.training
    assert not model.bn.training
    assert same(model, before)


def test_impossible_values_are_refused():
    with pytest.raises(UserError, match="--retain_part 0"):
        Lotus(retain_part=0.0)


def test_it_goes_on_bit_for_bit():
    check_resume(lambda: Lotus(unlearn_epochs=2, unlearn_lr=0.01), count=None, class_to_forget=1)
