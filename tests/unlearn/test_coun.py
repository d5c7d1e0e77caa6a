"""CoUn: its contrast against a double loop, its passes; added to NegGrad+ and l1-sparse."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import (
    check_resume,
    first_batch,
    make_data,
    make_image_set,
    make_model,
    random_mask,
    run,
    same,
    settled,
)

from arg_parser import unlearn_request
from models import MODELS, blocks, build_model
from stages.settings import settle_and_say
from unlearn.coun import CoUn
from unlearn.finetune import FineTune
from unlearn.l1_sparse import L1Sparse
from unlearn.neggrad_plus import NegGradPlus
from unlearn.tools.contrast import Features, info_nce
from utils import UserError


def double_loop(first, second, tau):
    """-log of the partner's share of exp(cosine / tau), image by image, in both directions."""
    total, b = 0.0, len(first)
    for one, other in ((first, second), (second, first)):
        for i in range(b):
            likeness = []
            for j in range(b):
                product = sum(x * y for x, y in zip(one[i], other[j], strict=True))
                lengths = math.hypot(*one[i]) * math.hypot(*other[j])
                likeness.append(math.exp(product / lengths / tau))
            total -= math.log(likeness[i] / sum(likeness))
    return total / (2 * b)


@pytest.mark.parametrize("tau", [0.1, 0.3, 1.0])
def test_the_contrast_is_the_double_loops(tau):
    first, second = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)) * 4
    expected = double_loop(first.tolist(), second.tolist(), tau)
    assert info_nce(first, second, tau).item() == pytest.approx(expected, rel=1e-5)
    assert info_nce(second, first, tau).item() == pytest.approx(expected, rel=1e-5)
    assert info_nce(first.bfloat16(), second.bfloat16(), tau).dtype == torch.float32


def test_the_contrast_makes_no_tensor_of_pairs_of_features():
    """b x b at most, not b x b x d."""
    from torch.utils._python_dispatch import TorchDispatchMode

    sizes = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(
                x.numel()
                for x in (out if isinstance(out, tuple) else [out])
                if isinstance(x, torch.Tensor)
            )
            return out

    views = torch.randn(2, 64, 512, requires_grad=True)
    with Sizes():
        info_nce(*views, 0.1).backward()
    assert max(sizes) == 2 * 64 * 512  # the views themselves


@pytest.mark.parametrize("arch", MODELS)
def test_features_are_what_the_classifier_is_given(arch):
    torch.manual_seed(0)
    model = build_model(arch, 4, (0.4,) * 3, (0.2,) * 3).eval()
    classifier = model.get_submodule(blocks(model)[-1][0])
    features = Features(model)
    logits = model(torch.rand(2, 3, 32, 32))
    seen = features.take()
    torch.testing.assert_close(classifier(seen), logits)
    features.remove()
    model(torch.rand(2, 3, 32, 32))
    assert features.seen is None or features.take() is not None
    assert not classifier._forward_pre_hooks


def views_of(data):
    first, second, labels = next(iter(data.retain.two_views()))
    return first, second, labels


def test_the_loss_is_the_cross_entropy_of_one_view_and_the_weighted_contrast():
    model = make_model().eval()
    first, second, labels = views_of(make_data())
    assert not torch.equal(first, second)
    classifier_input = lambda images: F.adaptive_avg_pool2d(  # noqa: E731
        torch.relu(model.bn(model.conv(model.normalize(images)))), 2
    ).flatten(1)
    contrast = double_loop(classifier_input(first).tolist(), classifier_input(second).tolist(), 0.2)
    step = next(CoUn(contrast=0.7, contrast_temperature=0.2).losses(model, make_data(), 0))
    expected = F.cross_entropy(model(first), labels).item() + 0.7 * contrast
    assert step.loss.item() == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(step.logits, model(first))
    assert torch.equal(step.labels, labels)


def test_the_first_view_is_the_plain_pass_s():
    assert torch.equal(views_of(make_data())[0], first_batch(make_data().retain)[0])


@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_without_weight_it_is_finetuning_bit_for_bit(tau):
    fields = {"unlearn_epochs": 2, "unlearn_lr": 0.05}
    ours = run(CoUn(**fields, contrast=0.0, contrast_temperature=tau), make_model(), make_data())
    assert same(ours, run(FineTune(**fields), make_model(), make_data()))


@pytest.mark.parametrize("make", [L1Sparse, NegGradPlus], ids=lambda make: make.__name__)
def test_it_is_added_to_other_methods(make):
    """The loss of a batch grows by the weighted contrast, under the weight of the retain loss."""
    model = make_model().eval()
    plain, added = (next(make(contrast=c).losses(model, make_data(), 0)) for c in (0.0, 0.5))
    first, second, _ = views_of(make_data())
    features = Features(model)
    seen = [model(view) is not None and features.take() for view in (first, second)]
    features.remove()
    contrast = double_loop(*(each.tolist() for each in seen), 0.1)
    weight = 0.9999 if make is NegGradPlus else 1.0
    assert (added.loss - plain.loss).item() == pytest.approx(weight * 0.5 * contrast, rel=1e-3)


def test_no_hook_stays_on_the_model():
    model = run(CoUn(unlearn_epochs=1), make_model(), make_data())
    assert not any(module._forward_pre_hooks for module in model.modules())
    steps = CoUn().losses(model, make_data(), 0)
    next(steps)
    assert model.fc._forward_pre_hooks
    steps.close()
    assert not model.fc._forward_pre_hooks


def test_it_is_by_default_the_long_budget_of_its_paper():
    args, _ = settled("--unlearn", "coun")
    assert (args.unlearn_epochs, args.schedule, args.final_lr) == (50, "cosine", 1e-4)
    assert 0.1 <= args.contrast <= 6
    assert args.contrast_temperature <= 0.3
    assert (
        settled("--unlearn", "FT_l1")[0].contrast
        == settled("--unlearn", "neggrad_plus")[0].contrast
        == 0
    )


@pytest.mark.parametrize("make", [CoUn, L1Sparse, NegGradPlus])
@pytest.mark.parametrize("fields", [{"contrast": -1.0}, {"contrast_temperature": 0.0}])
def test_impossible_values_are_refused(make, fields):
    with pytest.raises(UserError, match=f"--{next(iter(fields))}"):
        make(**fields)


@pytest.mark.parametrize("make", [CoUn, L1Sparse, NegGradPlus])
def test_it_goes_on_bit_for_bit(make):
    check_resume(lambda: make(unlearn_epochs=2, contrast=0.5), random_mask(make_model()))


@pytest.mark.parametrize("make", [CoUn, NegGradPlus])
@pytest.mark.parametrize(
    ("images", "augment", "pad", "flip"),
    [
        ({"crop": 0, "flip": False}, True, 1, False),  # the data set has neither
        ({"crop": 2, "flip": True}, False, 2, True),  # the method leaves them out
        ({"crop": 0, "flip": True}, True, 0, True),
        ({"crop": 2, "flip": False}, True, 2, False),
    ],
)
def test_views_are_augmented_whatever_the_default_is(capsys, make, images, augment, pad, flip):
    """Equal views would teach nothing; that this is not the default's is said once a run."""
    data = make_data(make_image_set(**images), augment=augment)
    plain, evaluated = not data.retain.augments(), first_batch(data.evaluation["retain"])[0]
    run(make(unlearn_epochs=2, contrast=1.0), make_model(), data)
    assert (data.retain.images.pad, data.retain.flip) == (pad, flip)
    assert capsys.readouterr().out.count("retain images are augmented") == plain
    first, second, _ = views_of(data)
    assert not torch.equal(first, second)
    assert torch.equal(evaluated, first_batch(data.evaluation["retain"])[0])
    assert data.forget.images.pad == (images["crop"] if augment else 0)


@pytest.mark.parametrize("make", [CoUn, NegGradPlus])
def test_it_goes_on_bit_for_bit_where_nothing_else_augments(make):
    check_resume(
        lambda: make(unlearn_epochs=2, unlearn_lr=0.05, contrast=0.5),
        image_set=make_image_set(crop=0, flip=False),
    )


@pytest.mark.parametrize("words", [["coun"], ["neggrad_plus", "--contrast", "0.5"]])
def test_views_without_augmentation_are_refused_where_that_is_typed(words):
    with pytest.raises(UserError, match=r"--no-aug: .* compares two augmented views"):
        settle_and_say(unlearn_request(["--unlearn", *words, "--no-aug"]))
    settle_and_say(unlearn_request(["--unlearn", *words]))
    settle_and_say(unlearn_request(["--unlearn", *words, "--contrast", "0", "--no-aug"]))
