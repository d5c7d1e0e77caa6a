"""What --forget and the reference's flags choose, against draws and look-ups written anew."""

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
from helpers import make_image_set
from hypothesis import given
from hypothesis import strategies as st

from datasets.forgetting import amount_of, choose, is_drawn, spec_of, spec_of_reference
from datasets.splits import leave_out, make_split
from utils import UserError

IMAGES = make_image_set()  # 160 training images, label i mod 4, classes a b c d
SPLIT = make_split(IMAGES.y_train, 1)


def named(*names):
    return dataclasses.replace(IMAGES, classes=names)


def chosen(text, images=IMAGES, split=SPLIT, forget_seed=2, **options):
    return choose(spec_of(text), split, images, forget_seed, **options)[0]


def by_flags(count=None, class_=-1, positions=None, images=IMAGES):
    spec = spec_of_reference(count, class_, positions)
    return choose(spec, SPLIT, images, 2)[0]


def refusal(text, images=IMAGES, **options):
    with pytest.raises(UserError) as refused:
        chosen(text, images, **options)
    assert str(refused.value).startswith(f"--forget {text[:150]}")
    return str(refused.value)


# ----------------------------------------------------------------------------------- random, shares


@pytest.mark.parametrize("forget_seed", [0, 1, 2, 7])
def test_random_is_the_references_draw(forget_seed):
    drawn = np.random.RandomState((forget_seed - 1) % 2**32).choice(SPLIT.train, 30, replace=False)
    assert chosen("random:30", forget_seed=forget_seed).forget.tolist() == drawn.tolist()


@pytest.mark.parametrize(
    ("spec", "flags"),
    [
        ("random:30", {"count": 30}),
        ("random:10%", {"count": "10%"}),
        ("class:3", {"class_": 3}),
        ("class:3:5", {"class_": 3, "count": 5}),
        ("class:d:50%", {"class_": "d", "count": "50%"}),
        ("classes:1,3", {"class_": "1,3"}),
        ("classes:b,3:7", {"class_": "3,b", "count": 7}),
        ("positions:5,0,9", {"positions": "5,0,9"}),
    ],
)
def test_the_references_flags_ask_for_the_same(spec, flags):
    by_spec, of_flags = chosen(spec), by_flags(**flags)
    assert by_spec.forget.tolist() == of_flags.forget.tolist()
    assert by_spec.record(IMAGES.classes) == of_flags.record(IMAGES.classes)


@given(st.integers(1, 10**6), st.integers(1, 1000))
def test_shares_round_down_exactly(available, tenths):
    wanted = math.floor(Fraction(tenths, 10) * available / 100)
    text = f"{tenths / 10}%"
    if wanted:
        assert amount_of(text, available, "x") == wanted
    else:
        with pytest.raises(UserError, match="less than one"):
            amount_of(text, available, "x")


def test_a_share_of_a_class_is_of_its_training_images():
    assert len(chosen("class:a:29%").forget) == math.floor(0.29 * 36)
    assert len(chosen("random:10%").forget) == 14


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("random:0", ["0", "1 to 144"]),
        ("random:145", ["145", "1 to 144"]),
        ("random:144", ["none to retain"]),
        ("random:100%", ["none to retain"]),
        ("random:101%", ["at most 100%"]),
        ("random:0%", ["above 0"]),
        ("random:0.1%", ["less than one"]),
        ("random:0.1", ["4500", "10%"]),
        ("random:-5", ["4500", "10%"]),
        ("random:ten", ["4500", "10%"]),
        ("random:", ["random:4500", "files:@FILE"]),
        ("4500", ["did you mean random:4500?", "files:@FILE"]),
        ("10%", ["did you mean random:10%?", "files:@FILE"]),
        ("magic:3", ["random:4500", "files:@FILE"]),
        ("class:a:x", ["4500", "10%"]),
        ("class:a:37", ["37", "1 to 36"]),
        ("class:" + "9" * 5000, ["no class 9"]),
        ("random:" + "9" * 5000, ["4500", "10%"]),
        ("class:#" + "9" * 5000, ["no class #9"]),
        ("class:e", ["no class e", "0 a, 1 b, 2 c, 3 d"]),
        ("class:A", ["did you mean a?"]),
        ("class:4", ["no class 4", "0 to 3"]),
        ("class:#4", ["no class #4", "0 to 3"]),
        ("class:=e", ["no class =e"]),
        ("class:a,b", ["classes:a,b"]),
        ("classes:a,0", ["class 0 (a) is given twice"]),
        ("classes:a,b,c,d", ["none to retain"]),
    ],
)
def test_what_is_not_there_is_refused(text, said):
    message = refusal(text)
    for words in said:
        assert words in message


# ------------------------------------------------------------------------------------------ classes


def test_several_whole_classes_are_dropped_and_recorded():
    found = chosen("classes:d,1")
    assert found.forget.tolist() == [i for i in SPLIT.train if IMAGES.y_train[i] in (1, 3)]
    assert found.dropped_classes == (1, 3)
    assert found.scenario == "class"
    record = found.record(IMAGES.classes)
    assert record["classes"] == [{"index": 1, "name": "b"}, {"index": 3, "name": "d"}]
    assert (record["kind"], record["count"]) == ("class", 72)
    assert "class" not in record
    assert found.said(IMAGES.classes) == "classes 1 (b), 3 (d)"


def test_a_part_of_classes_drops_none_of_them():
    found = chosen("classes:b,d:50%")
    assert (len(found.forget), found.dropped_classes, found.classes) == (36, (), (1, 3))


def test_one_class_is_recorded_as_earlier_results_do():
    record = chosen("class:c").record(IMAGES.classes)
    assert (record["class"], record["classes"]) == (2, [{"index": 2, "name": "c"}])


NUMBERED = named("0", "1", "10", "2")  # folders in alphabetical order


def test_an_integer_that_is_an_index_and_another_name_is_refused():
    assert chosen("class:1", NUMBERED).classes == (1,)
    message = refusal("class:2", NUMBERED)
    assert "class:#2" in message
    assert "class:=2" in message
    assert chosen("class:#2", NUMBERED).record(NUMBERED.classes)["classes"] == [
        {"index": 2, "name": "10"}
    ]
    assert chosen("class:=2", NUMBERED).classes == (3,)
    assert "class:=10" in refusal("class:10", NUMBERED)
    assert "classes:#2" in refusal("classes:1,2", NUMBERED)
    from_one = named("1", "2", "3", "4")
    assert "class:#0" in refusal("class:0", from_one)
    assert "no class 9" in refusal("class:9", from_one)


def test_class_to_replace_keeps_the_index_and_warns_with_the_name(capsys):
    assert by_flags(class_=2, images=NUMBERED).classes == (2,)
    assert "'10'" in capsys.readouterr().err
    assert by_flags(class_=2).classes == (2,)
    assert capsys.readouterr().err == ""


def test_names_with_marks_of_their_own_are_names():
    images = named("a:b", "c,d", "e:5", "50%")
    assert chosen("class:a:b", images).dropped_classes == (0,)
    assert len(chosen("class:a:b:5", images).forget) == 5
    assert chosen("class:c,d", images).classes == (1,)
    assert chosen("class:e:5", images).dropped_classes == (2,)
    assert chosen("class:50%", images).classes == (3,)


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("random:10", True),
        ("class:a:50%", True),
        ("classes:1,2:7", True),
        ("class:a", False),
        ("positions:1,2", False),
        ("files:@a.csv:1", False),
    ],
)
def test_whether_a_seed_has_a_part_in_it(text, drawn):
    assert is_drawn(text) == drawn
    if not text.startswith("files"):
        sets = {tuple(sorted(chosen(text, forget_seed=seed).forget)) for seed in range(5)}
        assert (len(sets) > 1) == drawn


# -------------------------------------------------------------------------------------------- lists


def test_indices_count_the_data_set_and_positions_the_training_images():
    wanted = SPLIT.train[[5, 0, 9]].tolist()
    assert chosen("positions:5,0,9").forget.tolist() == wanted
    assert chosen(f"indices:{','.join(map(str, wanted))}").forget.tolist() == wanted


def test_validation_images_are_refused_by_count_or_left_out_and_said():
    listed = [*SPLIT.val[:3], *SPLIT.train[:2]]
    text = f"indices:{','.join(map(str, listed))}"
    message = refusal(text)
    assert "3 of 5 are validation images" in message
    assert f"the first is {SPLIT.val[0]}" in message
    assert "--skip_val" in message
    found, lines = choose(spec_of(text), SPLIT, IMAGES, 2, skip_val=True)
    assert found.forget.tolist() == SPLIT.train[:2].tolist()
    assert len(lines) == 1
    assert "3 of 5" in lines[0]
    only = f"indices:{','.join(map(str, SPLIT.val))}"
    assert "nothing is left" in refusal(only, skip_val=True)


@pytest.mark.parametrize("kind", ["positions", "indices"])
def test_places_out_of_range_or_twice_are_named_by_the_first(kind):
    last = {"positions": 143, "indices": 159}[kind]
    message = refusal(f"{kind}:0,{last + 1},-1")
    assert f"{last + 1} is out of range (and 1 more), allowed 0 to {last}" in message
    assert "-1 is out of range" in refusal(f"{kind}:0,-1")
    assert "6 is given twice (5 entries, 3 different)" in refusal(f"{kind}:6,6,9,9,1")
    assert "true and false" in refusal(f"{kind}:0,1,1,0")


def test_images_left_out_of_the_study_are_refused():
    smaller = leave_out(SPLIT, np.array([0, 1]))
    with pytest.raises(UserError, match=r"2 of 3 are left out by --leave_out"):
        chosen(f"indices:{','.join(map(str, SPLIT.train[:3]))}", split=smaller)


@pytest.mark.parametrize(("kind", "images"), [("positions", SPLIT.train), ("indices", range(160))])
def test_a_mask_is_as_long_as_what_it_counts(kind, images, tmp_path):
    mask = np.isin(images, SPLIT.train[:4])
    np.save(tmp_path / "mask.npy", mask)
    text = f"{kind}:@{tmp_path / 'mask.npy'}"
    assert chosen(text).forget.tolist() == SPLIT.train[:4].tolist()
    np.save(tmp_path / "mask.npy", mask[:-1])
    message = refusal(text)
    assert f"of {len(mask) - 1} entries" in message
    assert f"{len(mask)} " in message
    np.save(tmp_path / "mask.npy", np.zeros(len(mask), bool))
    assert "false everywhere" in refusal(text)


FILES = dataclasses.replace(
    IMAGES,
    files=tuple(f"train/{IMAGES.classes[c]}/img{i // 4}.png" for i, c in enumerate(IMAGES.y_train)),
)
FIRST = [int(i) for i in SPLIT.train[:2]]


@pytest.mark.parametrize("form", ["{}", "./{}", "/home/me/data/{}", "data\\{}"])
def test_files_are_found_however_they_are_written(form):
    given = ",".join(form.format(FILES.files[i]) for i in FIRST)
    if "\\" in form:
        given = given.replace("/", "\\")
    assert chosen(f"files:{given}", FILES).forget.tolist() == FIRST
    short = ",".join(FILES.files[i].removeprefix("train/") for i in FIRST)
    assert chosen(f"files:{short}", FILES).forget.tolist() == FIRST


def test_files_that_are_no_one_training_image_are_refused():
    held_out = FILES.files[SPLIT.val[0]]
    message = refusal(f"files:{held_out}", FILES)
    assert "1 of 1 are validation images" in message
    assert held_out in message
    assert "no training image" in refusal("files:test/a/img0.png", FILES)
    assert "no training image" in refusal("files:mg0.png", FILES)
    assert "the name of 4 images" in refusal("files:img0.png", FILES)
    twice = f"files:{FILES.files[FIRST[0]]},x/{FILES.files[FIRST[0]]}"
    assert "given twice" in refusal(twice, FILES)
    assert "indices:@FILE" in refusal("files:train/a/img0.png")
