"""--help shows what a script reads, and one method's flags where a method is named."""

import re

import pytest

from arg_parser import mask_request, train_request, unlearn_request


def shown(request_of, capsys, *words):
    with pytest.raises(SystemExit):
        request_of([*words, "--help"])
    return capsys.readouterr().out


def flags_of(text):
    return set(re.findall(r"^  (--\w[\w-]*)", text, re.MULTILINE))


def test_a_script_shows_the_flags_it_reads(capsys):
    training = flags_of(shown(train_request, capsys))
    assert "--label_smoothing" in training
    assert not training & {"--mask_path", "--unlearn_lr", "--score", "--alpha", "--forget_seed"}
    masks = flags_of(shown(mask_request, capsys))
    assert "--score" in masks
    assert not masks & {"--momentum", "--mask_path", "--msteps"}
    unlearning = flags_of(shown(unlearn_request, capsys))
    assert unlearning >= {"--mask_path", "--msteps", "--alpha", "--momentum"}
    assert "--score" not in unlearning


@pytest.mark.parametrize("words", [["--unlearn", "SCRUB"], ["--unlearn=scrub"]], ids=str)
def test_a_method_s_help_shows_its_own_flags_with_its_defaults(words, capsys):
    text = " ".join(shown(unlearn_request, capsys, *words).split())
    assert "first epochs that also climb on the forget set (default: 2)" in text
    assert "learning rate of unlearning (default: 0.0005)" in text
    for flag in ("--noise_steps", "--importance_batch", "--max_iterations"):
        assert flag not in text


def test_what_help_does_not_show_is_accepted():
    assert train_request(["--mask_path", "x.pt"]).typed == {"mask_path"}
