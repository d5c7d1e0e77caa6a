"""A run that takes far more work than is meant is refused before its images are read."""

import pytest
import torch
from helpers import SETUP, call, patch_stages, refused

import main_forget
import main_random
from unlearn import fisher_new

CLASSES = 10
SPEC = "random:130"


def run(original, folder, *words, forget=SPEC, main=main_forget.main):
    """FF on digits, by random:130 unless ``forget`` says otherwise."""
    words = ["--forget", forget, "--unlearn", "fisher_new", *words]
    return call(main, *SETUP, "--model_path", original, "--save_dir", folder, *words)


@pytest.fixture
def count(original):
    """The number of retain images of :func:`run`."""
    return len(torch.load(original, weights_only=True)["split"]["train"]) - 130


@pytest.fixture
def unread(monkeypatch):
    patch_stages(monkeypatch, "load_dataset", lambda *_, **__: pytest.fail("images were read"))


def limit(monkeypatch, passes):
    monkeypatch.setattr(fisher_new, "MOST_PASSES", passes)


@pytest.mark.parametrize("form", ["amount", "share"])
@pytest.mark.parametrize("script", ["main_forget", "main_random"])
def test_it_is_refused_by_the_originals_record_alone(
    original, tmp_path, capsys, monkeypatch, unread, count, form, script
):
    limit(monkeypatch, CLASSES * count - 1)
    share = f"random:{100 * 130.5 / (count + 130):.4f}%"
    spec = {"amount": SPEC, "share": share}[form]
    main = {"main_forget": main_forget, "main_random": main_random}[script].main
    code = run(original, tmp_path / "run", forget=spec, main=main)
    said = (f"each of {CLASSES} classes", f"{count} retain images", f"--fisher_samples {count} to")
    refused(capsys, code, *said)
    assert not (tmp_path / "run").exists()


def test_what_is_asked_for_or_within_the_limit_goes_on(original, tmp_path, monkeypatch, count):
    limit(monkeypatch, CLASSES * count)
    assert run(original, tmp_path, "--dry_run") == 0
    limit(monkeypatch, CLASSES * count - 1)
    assert run(original, tmp_path, "--dry_run", "--fisher_samples", count) == 0


@pytest.mark.parametrize("spec", ["random:0", "random:99999", "positions:1,1", "files:a.png"])
def test_what_cannot_be_forgotten_is_refused_for_that(
    original, tmp_path, capsys, monkeypatch, spec
):
    limit(monkeypatch, 1)
    assert run(original, tmp_path, forget=spec) == 2
    assert "fisher_samples" not in capsys.readouterr().err


def test_images_that_are_left_out_are_not_counted(original, tmp_path, monkeypatch, count):
    limit(monkeypatch, CLASSES * (count - 20))
    left = ",".join(map(str, range(20)))
    assert run(original, tmp_path, "--dry_run", "--leave_out", left) == 0


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--retain_fraction", 0.9),
        ("--forget_copies",),
        ("--dry_run",),
        ("--leave_out", "1,2"),
    ],
)
def test_what_only_the_data_tell_is_refused_after_they_are_read(
    original, tmp_path, capsys, monkeypatch, words
):
    limit(monkeypatch, 1)
    spec = SPEC if len(words) > 1 else "class:3"
    refused(capsys, run(original, tmp_path, *words, forget=spec), "--fisher_samples 2000 to draw")
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize(("lost", "read"), [("classes", False), ("split", True)])
def test_a_record_without_the_numbers(original, tmp_path, capsys, monkeypatch, count, lost, read):
    """digits has as many classes as it always had; without a split the data are read."""
    limit(monkeypatch, CLASSES * count - 1)
    content = torch.load(original, weights_only=True)
    del content[lost]
    torch.save(content, tmp_path / "a.pt")
    if not read:
        patch_stages(monkeypatch, "load_dataset", lambda *_, **__: pytest.fail("images were read"))
    refused(capsys, run(tmp_path / "a.pt", tmp_path / "run"), f"--fisher_samples {count} to")
