"""DELETE: the target distribution and the loss against NumPy, and the whole run."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from helpers import check_resume, first_batch, make_data, make_model, random_mask, run, settled

from unlearn.delete import Delete, without_class


def test_the_target_has_no_mass_on_the_class_and_keeps_the_ratios_of_the_others():
    torch.manual_seed(0)
    logits, labels = 5 * torch.randn(50, 7), torch.randint(0, 7, (50,))
    target = without_class(logits, labels)
    p = scipy.special.softmax(logits.double().numpy(), 1)
    rows = np.arange(50)
    assert (target[rows, labels] == 0).all()
    torch.testing.assert_close(target.sum(1), torch.ones(50))
    p[rows, labels] = 0
    np.testing.assert_allclose(target, p / p.sum(1, keepdims=True), rtol=1e-5, atol=1e-12)


def test_a_certain_original_still_gives_a_distribution_over_the_others():
    """Its softmax is one on the class in fp32; the ratios of the others are in the logits."""
    target = without_class(torch.tensor([[200.0, 1.0, 0.0]]), torch.tensor([0]))
    np.testing.assert_allclose(target[0, 1:], scipy.special.softmax([1.0, 0.0]), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_is_the_divergence_from_the_target(dtype):
    data, model = make_data(), make_model().eval()
    method = Delete()
    method.prepare(make_model(seed=5), data, None)
    images, labels = first_batch(data.forget)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        step = next(method.losses(model, data, 0))
        target = without_class(method.teacher(images), labels)
    q = scipy.special.softmax(step.logits.detach().double().numpy(), 1)
    expected = scipy.stats.entropy(target.double().numpy(), q, axis=1).mean()
    assert float(step.loss) == pytest.approx(expected, rel=1e-5)
    step.loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_the_run_is_a_plain_loop_without_decay_whose_teacher_sees_the_augmented_images():
    data, model, teacher = make_data(batch_size=8), make_model().train(), make_model().eval()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for epoch in range(3):
        data.set_epoch(epoch)
        for images, labels in data.forget:
            with torch.no_grad():
                p = teacher(images).double().softmax(1)
                p[torch.arange(len(labels)), labels] = 0
                p /= p.sum(1, keepdim=True)
            log_q = model(images).log_softmax(1)
            optimizer.zero_grad()
            (-(p * log_q).sum(1).mean()).backward()  # the entropy of p has no gradient
            optimizer.step()
    ours = run(Delete(unlearn_epochs=3, unlearn_lr=0.05), make_model(), make_data(batch_size=8))
    start = make_model()
    for a, b, c in zip(ours.parameters(), model.parameters(), start.parameters(), strict=True):
        assert (a - b).norm() <= 1e-3 * (b - c).norm() + 1e-6


def test_it_reads_no_retain_image():
    data = make_data()
    data.retain = None
    run(Delete(unlearn_epochs=1), make_model(), data)


def test_it_takes_the_class_away_and_leaves_the_others_in_their_order():
    """After many steps the answer on a forget image is the original's second one."""
    data, model = make_data(count=None, class_to_forget=1, augment=False), make_model()
    images, labels = next(iter(data.forget.eval_view().batches_of(1000)))
    second = make_model().eval()(images).scatter(1, labels[:, None], -torch.inf).argmax(1)
    run(Delete(unlearn_epochs=60, unlearn_lr=0.1, bn="freeze"), model, data)
    answers = model.eval()(images).argmax(1)
    assert not (answers == labels).any()
    assert (answers == second).float().mean() > 0.9


@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
def test_resumed_run_equals_the_uninterrupted_one(masked):
    mask = random_mask(make_model()) if masked else None
    check_resume(lambda: Delete(unlearn_epochs=3, unlearn_lr=0.01), mask)


def test_the_published_settings():
    values = settled("--unlearn", "delete", "--dataset", "cifar10")[0]
    assert (values.unlearn_lr, values.unlearn_epochs, values.weight_decay) == (1e-4, 20, 0.0)
    assert (values.batch_size, values.momentum) == (128, 0.9)
    assert settled("--unlearn", "delete", "--dataset", "cifar100")[0].unlearn_lr == 5e-5
    assert settled("--unlearn", "delete", "--preset", "script")[0].unlearn_lr == 1e-3
