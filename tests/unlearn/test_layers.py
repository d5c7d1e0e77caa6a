"""CF-k, EU-k: which blocks there are, which change; UNSIR: its noise, its two phases."""

import copy
import math

import numpy as np
import pytest
import scipy.special
import torch
import torch.nn.functional as F
from helpers import (
    CLASSES,
    CPU,
    make_data,
    make_image_set,
    make_model,
    random_mask,
    run,
    run_part,
    same,
)
from torch import nn

from datasets.loaders import Data
from masks.masks import top_masks
from models import MODELS, blocks, build_model, redraw
from stages.mask import mask_rows, print_shares
from unlearn.finetune import FineTune
from unlearn.last_blocks import FinetuneLastBlocks, RetrainLastBlocks
from unlearn.retrain import Retrain
from unlearn.unsir import Unsir
from utils import UserError, stream


def build(arch):
    torch.manual_seed(0)
    return build_model(arch, CLASSES, (0.4,) * 3, (0.2,) * 3).to(memory_format=torch.channels_last)


# ------------------------------------------------------------------------------------------- blocks

VGG_POOLED_AFTER = {1, 3, 6, 9}  # convolutions (from 0) that a pool follows


def vgg_features():
    """conv, BatchNorm, ReLU and here and there a pool: the positions of the first two of each."""
    position, groups = 0, []
    for convolution in range(13):
        groups.append([f"features.{position}", f"features.{position + 1}"])
        position += 4 if convolution in VGG_POOLED_AFTER else 3
    return groups


BLOCKS = {
    "resnet18": [
        ["conv1", "bn1"],
        ["layer1.0"],
        ["layer1.1"],
        ["layer2.0"],
        ["layer2.1"],
        ["layer3.0"],
        ["layer3.1"],
        ["layer4.0"],
        ["layer4.1"],
        ["fc"],
    ],
    "resnet20s": [
        ["conv1", "bn1"],
        ["layer1.0"],
        ["layer1.1"],
        ["layer1.2"],
        ["layer2.0"],
        ["layer2.1"],
        ["layer2.2"],
        ["layer3.0"],
        ["layer3.1"],
        ["layer3.2"],
        ["fc"],
    ],
    "vgg16_bn": [*vgg_features(), ["classifier.0"], ["classifier.2"], ["classifier.4"]],
    "vgg16_bn_lth": [*vgg_features(), ["classifier"]],
}


@pytest.mark.parametrize("arch", BLOCKS)
def test_blocks_are_these(arch):
    with torch.device("meta"):
        model = build_model(arch, CLASSES, (0.4,) * 3, (0.2,) * 3)
    assert blocks(model) == BLOCKS[arch]


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnet20s", "vgg16_bn", "vgg16_bn_lth"])
def test_blocks_are_in_forward_order_hold_every_parameter_once_and_end_in_the_classifier(arch):
    model = build(arch).eval()
    owned = [
        f"{name}.{p}"
        for group in blocks(model)
        for name in group
        for p, _ in model.get_submodule(name).named_parameters()
    ]
    assert sorted(owned) == sorted(name for name, _ in model.named_parameters())
    seen = []
    for group in blocks(model):
        model.get_submodule(group[0]).register_forward_hook(
            lambda *unused, name=group[0]: seen.append(name)
        )
    with torch.no_grad():
        logits = model(torch.rand(1, 3, 32, 32))
    assert seen == [group[0] for group in blocks(model)]
    last = model.get_submodule(blocks(model)[-1][0])
    assert isinstance(last, torch.nn.Linear)
    assert logits.shape[1] == last.out_features == CLASSES


# ------------------------------------------------------------------------------------ CF-k and EU-k


@pytest.fixture(scope="module")
def original():
    """A ResNet-20 whose BatchNorm statistics are not the initial ones."""
    model = build("resnet20s")
    model(torch.rand(64, 3, 8, 8))
    return model


def few():
    return make_data(make_image_set(train=48), count=8)


def changed(model, original):
    """The modules' tensors, buffers included, that are no longer what they were."""
    return {
        name
        for name, value in model.state_dict().items()
        if not torch.equal(value, original.state_dict()[name])
    }


@pytest.mark.parametrize("k", [0, 1, 3])
@pytest.mark.parametrize("make", [FinetuneLastBlocks, RetrainLastBlocks], ids=["CF", "EU"])
def test_exactly_the_last_blocks_change_buffers_included(original, make, k):
    model = run(make(unlearn_epochs=2, k=k), copy.deepcopy(original), few())
    trained = [name for group in BLOCKS["resnet20s"][10 - k :] for name in group]
    assert changed(model, original) == {
        name for name in original.state_dict() if name.startswith(tuple(f"{t}." for t in trained))
    }
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("arch", "k", "stage"), [("resnet18", 2, "layer4"), ("resnet20s", 3, "layer3")]
)
@pytest.mark.parametrize("make", [FinetuneLastBlocks, RetrainLastBlocks], ids=["CF", "EU"])
def test_under_a_frozen_classifier_exactly_the_last_stage_changes_buffers_included(
    make, arch, k, stage
):
    original = build(arch)
    original(torch.rand(64, 3, 8, 8))
    method = make(unlearn_epochs=1, weight_decay=0.0, k=k, classifier="freeze")
    model = run(method, copy.deepcopy(original), few(), momentum=0.0)
    assert changed(model, original) == {
        name for name in original.state_dict() if name.startswith(f"{stage}.")
    }
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_frozen_classifier_and_no_block_is_refused(original):
    with pytest.raises(UserError, match=r"--k 0: allowed 1 to 10, .*--classifier freeze"):
        FinetuneLastBlocks(k=0, classifier="freeze").prepare(copy.deepcopy(original), few(), None)
    FinetuneLastBlocks(k=10, classifier="freeze").prepare(copy.deepcopy(original), few(), None)


def test_with_every_block_cf_is_finetuning_bit_for_bit():
    fields = {"unlearn_epochs": 2, "unlearn_lr": 0.05}
    ours = run(FinetuneLastBlocks(**fields, k=1), make_model(), make_data())
    assert same(ours, run(FineTune(**fields), make_model(), make_data()))


def test_with_every_block_eu_is_retraining_bit_for_bit():
    fields = {"unlearn_epochs": 2, "unlearn_lr": 0.05}
    ours = run(RetrainLastBlocks(**fields, k=1), make_model(), make_data())
    assert same(ours, run(Retrain(**fields), make_model(), make_data()))


def test_eu_starts_from_new_blocks_of_its_own_seed_and_cf_from_the_original(original):
    data, names = few(), ["layer3.2", "fc"]
    for make, is_new in ((FinetuneLastBlocks, False), (RetrainLastBlocks, True)):
        model, expected = copy.deepcopy(original), copy.deepcopy(original)
        make(k=1).prepare(model, data, None)
        if is_new:
            redraw(expected, stream(data.seed, "init"), names)
        assert same(model, expected)
        assert same(model, original) == (not is_new)
    other = copy.deepcopy(original)
    RetrainLastBlocks(k=1).prepare(
        other, make_data(make_image_set(train=48), count=8, seed=4), None
    )
    assert not torch.equal(other.fc.weight, expected.fc.weight)


def test_redrawing_leaves_the_other_modules_and_the_global_generator_alone(original):
    model, before = copy.deepcopy(original), torch.get_rng_state()
    redraw(model, 1, ["layer3.2", "fc"])
    assert torch.equal(torch.get_rng_state(), before)
    differing = changed(model, original)
    assert all(name.startswith(("layer3.2.", "fc.")) for name in differing)
    assert {
        "layer3.2.conv1.weight",
        "layer3.2.bn1.running_mean",
        "fc.weight",
        "fc.bias",
    } <= differing


def test_training_fewer_blocks_needs_no_gradient_before_them(original):
    model, data = copy.deepcopy(original), few()
    method = FinetuneLastBlocks(k=1)
    method.prepare(model, data, None)
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {
        "layer3",
        "fc",
    }
    model.train()
    next(method.losses(model, data, 0))
    assert not model.layer1[0].bn1.training
    assert model.layer3[2].bn1.training


@pytest.mark.parametrize("make", [FinetuneLastBlocks, RetrainLastBlocks], ids=["CF", "EU"])
def test_a_mask_holds_in_the_trained_blocks_too(original, make):
    model = copy.deepcopy(original)
    mask = random_mask(model)
    run(make(unlearn_epochs=1, k=1), model, few(), mask)
    weight, frozen = model.fc.weight, ~mask["fc.weight"]
    assert torch.equal(weight[frozen], original.fc.weight[frozen])
    assert not torch.equal(weight, original.fc.weight)


@pytest.mark.parametrize("make", [FinetuneLastBlocks, RetrainLastBlocks], ids=["CF", "EU"])
def test_more_blocks_than_there_are_is_refused_with_the_range(original, make):
    model = copy.deepcopy(original)
    make(k=10).prepare(model, few(), None)
    with pytest.raises(UserError, match="--k 11: allowed 0 to 10"):
        make(k=11).prepare(model, few(), None)


# -------------------------------------------------------------------------------------------- UNSIR


def class_data(images=None, **changes):
    return make_data(images, **{"count": None, "class_to_forget": 1, "augment": False} | changes)


def prepared(method, model, data):
    method.prepare(model, data, None)
    return method


def taught():
    """A model that knows the classes, so that noise can be wrong about one."""
    return run(FineTune(unlearn_epochs=6, unlearn_lr=0.1), make_model(), make_data(count=1))


def error_of(model, images, label):
    with torch.no_grad():
        return F.cross_entropy(model.eval()(images), torch.full((len(images),), label)).item()


def test_noise_raises_the_originals_error_over_its_start_and_over_random_noise_of_its_size():
    data, model = class_data(), taught()
    untouched, learnt = (prepared(Unsir(noise_steps=steps), model, data).noise for steps in (0, 40))
    mean, std = data.dataset.mean[0], data.dataset.std[0]
    shorter = (untouched - mean) * (learnt - mean).norm() / (untouched - mean).norm() + mean
    assert (learnt - mean).norm() < (untouched - mean).norm()
    assert abs(((untouched - mean) / std).std().item() - 1) < 0.05
    assert error_of(model, learnt, 1) > 2 * error_of(model, shorter, 1)
    free = prepared(Unsir(noise_decay=0.0), model, data).noise
    assert error_of(model, free, 1) > 2 * error_of(model, untouched, 1)


def test_noise_of_a_linear_model_satisfies_the_stationarity_of_its_loss():
    """-CE + d ||N||^2 is stationary where 2 d N = W^T (p - onehot), written out in numpy."""
    torch.manual_seed(0)
    linear = nn.Linear(3 * 8 * 8, CLASSES)
    model, data = nn.Sequential(nn.Flatten(), linear), class_data(batch_size=4)
    mean, std = data.dataset.mean[0], data.dataset.std[0]
    noise = prepared(Unsir(noise_steps=1000, noise_lr=0.01, noise_decay=0.05), model, data).noise
    x, w = noise.flatten(1).double().numpy(), linear.weight.detach().double().numpy()
    p = scipy.special.softmax(x @ w.T + linear.bias.detach().double().numpy(), 1)
    normalised = (x - mean) / std
    np.testing.assert_allclose(2 * 0.05 * normalised, std * (p - np.eye(CLASSES)[1]) @ w, atol=1e-4)
    assert np.abs(normalised).max() > 0.05


def test_noise_only_reads_the_original():
    model = make_model()
    before, random = copy.deepcopy(model), torch.get_rng_state()
    method = prepared(Unsir(), model, class_data())
    assert same(model, before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert not method.noise.requires_grad


@pytest.mark.parametrize("scenario", ["class", "random"])
def test_noise_is_labelled_by_the_classes_of_the_forget_set(scenario):
    data = class_data() if scenario == "class" else make_data(count=16, batch_size=2)
    method = prepared(Unsir(noise_steps=1), make_model(), data)
    assert set(method.labels.tolist()) == set(data.forget.labels.tolist())
    assert len(method.noise) == len(method.labels) == 3 * len(data.forget.labels.unique())
    assert torch.bincount(method.labels).unique().tolist() == (
        [0, 3] if scenario == "class" else [3]
    )


def test_each_image_of_the_noise_is_learnt_for_itself():
    """In eval mode none depends on the others: three of a class are the first three of many."""
    model, data = taught(), class_data()
    few, many = (prepared(Unsir(noise_images=count), model, data).noise for count in (3, 20))
    torch.testing.assert_close(few, many[:3], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("tail", ["spread", "keep"])
def test_an_impairing_epoch_mixes_the_noise_with_a_part_of_retain_and_the_others_repair(tail):
    """17 batches of 3 noise images and 54 retain images fill 11 batches of 10, each with about as
    many of either.
    """
    plain = class_data()
    data = Data(
        plain.dataset,
        plain.split,
        plain.chosen,
        device=CPU,
        batch_size=10,
        seed=3,
        augment=False,
        tail=tail,
    )
    model = make_model().eval()
    method = prepared(
        Unsir(noise_steps=1, noise_batches=17, retain_part=0.5, unlearn_epochs=3, impair_epochs=1),
        model,
        data,
    )
    seen = []
    hook = model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    impairing, *repairing = (list(method.losses(model, data, epoch)) for epoch in range(3))
    hook.remove()
    images, labels = (
        torch.cat(seen[: len(impairing)]),
        torch.cat([step.labels for step in impairing]),
    )
    assert len(impairing) == 11
    assert {len(step.labels) for step in impairing} <= {8, 9, 10}
    assert all(4 <= (step.labels == 1).sum() <= 5 for step in impairing)
    assert (labels != 1).sum() == int(0.5 * data.retain.num_samples) == 54
    noise = images[labels == 1]
    # Each image of the noise in turn, again and again.
    torch.testing.assert_close(noise, method.noise[torch.arange(51) % 3], rtol=0, atol=0)
    retained = {
        round(value, 3)
        for value in next(iter(data.retain.batches_of(1000).eval_view()))[0].sum((1, 2, 3)).tolist()
    }
    assert {round(value, 3) for value in images[labels != 1].sum((1, 2, 3)).tolist()} <= retained
    for steps in repairing:
        assert sorted(torch.cat([step.labels for step in steps]).tolist()) == sorted(
            labels[labels != 1].tolist()
        )


def test_by_default_240_images_of_noise_are_shown():
    data, model = class_data(make_image_set(train=2000), batch_size=64), make_model().eval()
    method = prepared(Unsir(noise_steps=0), model, data)
    steps = list(method.losses(model, data, 0))
    assert sum(int((step.labels == 1).sum()) for step in steps) == 240
    assert sum(len(step.labels) for step in steps) == 240 + int(0.2 * data.retain.num_samples)
    assert len(steps) == math.ceil((240 + 270) / 64)


def test_impairing_loss_is_the_cross_entropy_of_both():
    data, model = class_data(), make_model().eval()
    method = prepared(Unsir(noise_steps=1), model, data)
    step = next(method.losses(model, data, 0))
    torch.testing.assert_close(step.loss, F.cross_entropy(step.logits, step.labels))


def test_impairing_without_noise_is_finetuning_on_the_part_bit_for_bit():
    fields = {"unlearn_epochs": 1, "unlearn_lr": 0.05, "weight_decay": 0.0, "optimizer": "sgd"}
    ours = run(Unsir(**fields, noise_batches=0, retain_part=1.0), make_model(), class_data())
    assert same(ours, run(FineTune(**fields), make_model(), class_data()))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_repairing_takes_its_own_learning_rate(optimizer):
    """A run of repair at 0.05 scaled to 0.01 equals fine-tuning at 0.01."""
    fields = {"unlearn_epochs": 2, "weight_decay": 0.01, "optimizer": optimizer, "bn": "freeze"}
    repair = {"impair_epochs": 0, "retain_part": 1.0, "repair_lr": 0.01}
    plain = run(FineTune(**fields, unlearn_lr=0.01), make_model(), class_data())
    ours = run(Unsir(**fields, **repair, unlearn_lr=0.05), make_model(), class_data())
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    assert same(run(Unsir(**fields, **repair, unlearn_lr=0.01), make_model(), class_data()), plain)
    assert same(
        run(Unsir(**fields, **repair, unlearn_lr=0.0), make_model(), class_data()), make_model()
    )


class Resetting(FineTune):
    """Fine-tuning whose optimizer begins anew in the third epoch."""

    def resets(self, epoch):
        return epoch == 2


OPTIMIZERS = {
    "sgd": lambda parameters, lr: torch.optim.SGD(
        parameters, lr, momentum=0.9, weight_decay=0.01, fused=True
    ),
    "adam": lambda parameters, lr: torch.optim.Adam(parameters, lr, weight_decay=0.01, fused=True),
    "adamw": lambda parameters, lr: torch.optim.AdamW(
        parameters, lr, weight_decay=0.01, fused=True
    ),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_epoch_that_resets_the_optimizer_is_a_plain_loop_with_a_second_one_bit_for_bit(
    optimizer,
):
    fields = {"unlearn_epochs": 4, "unlearn_lr": 0.01, "weight_decay": 0.01, "optimizer": optimizer}
    ours, theirs, loader = (
        run(Resetting(**fields), make_model(), make_data()),
        make_model().train(),
        make_data().retain,
    )
    for epoch in range(4):
        if epoch in (0, 2):
            steps = OPTIMIZERS[optimizer](theirs.parameters(), 0.01)
        loader.set_epoch(epoch)
        for images, labels in loader:
            steps.zero_grad()
            F.cross_entropy(theirs(images), labels).backward()
            steps.step()
    assert same(ours, theirs)
    assert not same(ours, run(FineTune(**fields), make_model(), make_data()))


def test_unsir_is_a_plain_loop_with_two_adams():
    """Two impairing and two repairing epochs, their batches as the method deals them out, bit for
    bit.
    """
    fields = {
        "unlearn_epochs": 4,
        "impair_epochs": 2,
        "unlearn_lr": 0.02,
        "repair_lr": 0.01,
        "noise_batches": 9,
    }
    ours, theirs, data = (
        run(Unsir(**fields), make_model(), class_data()),
        make_model(),
        class_data(),
    )
    method = prepared(Unsir(**fields), theirs, data)
    theirs.train()
    for epochs, lr in (((0, 1), 0.02), ((2, 3), 0.01)):
        adam = torch.optim.Adam(theirs.parameters(), lr, fused=True)
        for epoch in epochs:
            data.set_epoch(epoch)
            for step in method.losses(theirs, data, epoch):
                adam.zero_grad()
                step.loss.backward()
                adam.step()
    assert same(ours, theirs)


@pytest.mark.parametrize("until", [1, 2, 3])
def test_unsir_resumes_bit_for_bit_before_at_and_after_its_new_optimizer(until):
    make = lambda: Unsir(unlearn_epochs=4, impair_epochs=2, noise_batches=9)  # noqa: E731
    straight, resumed = make_model(), make_model()
    run_part(make(), straight, class_data())
    state = run_part(make(), make_model(), class_data(), until=until)
    run_part(make(), resumed, class_data(), state=state)
    assert same(straight, resumed)


def test_impairing_teaches_the_noise_as_the_class():
    data, model = class_data(), taught()
    method = Unsir(unlearn_epochs=1, noise_decay=0.01)
    before = error_of(model, prepared(method, model, data).noise, 1)
    run(method, model, data)
    assert before > 3 > 0.3 > error_of(model, method.noise, 1)


def test_unsir_refuses_an_empty_part():
    with pytest.raises(UserError, match="--retain_part 0"):
        Unsir(retain_part=0)
    with pytest.raises(UserError, match="--noise_images 0"):
        Unsir(noise_images=0)


# --------------------------------------------------------------------------------- shares of a mask


@pytest.mark.parametrize("arch", MODELS)
def test_every_weight_is_in_one_row_of_the_table_of_shares(arch):
    model = MODELS[arch](4)
    wanted = sorted(name for name, _ in model.named_parameters())
    for per_tensor in (False, True):
        rows = mask_rows(model, per_tensor)
        assert sorted(name for names in rows.values() for name in names) == wanted
    assert len(rows) == len(wanted)


def test_shares_are_printed_by_block_and_add_up(capsys):
    model = MODELS["resnet20s"](4)
    masks = top_masks({name: torch.rand(p.shape) for name, p in model.named_parameters()})
    print_shares(masks, mask_rows(model, per_tensor=False))
    _, *lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(blocks(model))
    counts = [[float(cell) for cell in line.split()[-11:]] for line in lines]
    total = sum(weights for weights, *_ in counts)
    assert total == sum(p.numel() for p in model.parameters())
    for column, ratio in enumerate(masks, start=1):
        assert sum(row[0] * row[column] for row in counts) / total == pytest.approx(
            100 * ratio, abs=0.1
        )
