"""The GPU battery's table as its dry twin: every step at toy size on the CPU, lost and gone on with
elsewhere.
"""

import dataclasses
import json
import shutil

import pytest
import torch

from benchmarks.gpu import table
from benchmarks.gpu.units import TWIN, units_of
from runtime.files import hash_arrays, load, load_json

pytestmark = pytest.mark.slow
FIRST = "epoch,original,retrain_2,masks,FT_2,raw_2"
LATER = ",retrain_3,SalUn_2,RL_2,l1_sparse_2,GA_2,retrain_4,IU_2,SCRUB_2,NegGrad_2,audit"


def twin(folder, *flags):
    return table.main(["--twin", "--at_once", "1", "--out", str(folder), *flags])


def checks(folder):
    return load_json(folder / "table.json", "")["checks"]


def weights(file):
    return hash_arrays(load(file, "")["state_dict"])


def test_a_table_goes_on_on_another_machine(tmp_path, capsys):
    here, there = tmp_path / "here", tmp_path / "there"
    assert twin(here, "--only", FIRST) == 0
    first = checks(here)
    assert set(first) == set(FIRST.split(","))
    original = here / "table" / "original"
    assert weights(original / "rounded.pth.tar") != weights(original / "0model_SA_best.pth.tar")
    assert load(original / "rounded.pth.tar", "")["rounded_from"] == weights(
        original / "0model_SA_best.pth.tar"
    )
    forgot = load_json(here / "table" / "FT_2" / "FTresult.json", "")
    assert forgot["provenance"]["original_sha256"] == weights(original / "rounded.pth.tar")
    pieces = sorted((here / "table_pieces").iterdir())
    assert len(pieces) <= 8
    assert all(
        piece.stat().st_size < 16e6
        and set(piece.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")
        for piece in pieces
    )

    shutil.copytree(here / "table_pieces", tmp_path / "carried")
    mask, rounded = (
        load(here / "table" / "masks" / "with_0.5.pt", ""),
        weights(original / "rounded.pth.tar"),
    )
    shutil.rmtree(here)  # the machine is gone
    assert twin(there, "--unpack", str(tmp_path / "carried"), "--only", FIRST + LATER) == 0
    found = checks(there)
    assert {name: entry["time"] for name, entry in first.items()}.items() <= {
        n: e["time"] for n, e in found.items()
    }.items()  # not run again
    assert set(found) == set((FIRST + LATER).split(","))
    assert weights(there / "table" / "original" / "rounded.pth.tar") == rounded
    carried = load(there / "table" / "masks" / "with_0.5.pt", "")
    assert all(torch.equal(carried[name], value) for name, value in mask.items())
    assert not (
        there / "table" / "FT_2" / "FTcheckpoint.pth.tar"
    ).exists()  # a finished model's weights stay behind

    audit = load_json(there / "table" / "audit" / "audit.json", "")
    labels = {row["label"]: row for row in audit["rows"]}
    assert {
        "FT",
        "SalUn",
        "RL",
        "l1-sparse",
        "GA",
        "IU",
        "SCRUB",
        "NegGrad+",
        "Retrain",
        "Original",
    } == set(labels)
    assert len(labels["Retrain"]["models"]) == 3
    results = {
        file.parent.name: load_json(file, "") for file in (there / "table").glob("*/*result.json")
    }
    known = {name: result["provenance"].get("unlearned_sha256") for name, result in results.items()}
    named = {model["label"]: model for model in audit["models"] if model["role"] == "models"}
    assert named["FT"]["weights_sha256"] == known["FT_2"]
    for name in ("FT", "SalUn", "GA"):  # outputs that travelled say what the run itself said
        assert labels[name]["mean"]["UA"] == pytest.approx(results[f"{name}_2"]["metrics"]["UA"])
        assert labels[name]["mean"]["svc_confidence_tnr"] == pytest.approx(
            results[f"{name}_2"]["metrics"]["MIA"]
        )
    page = (there / "table.md").read_text()
    assert "rounded to fp16" in page
    assert "| SalUn |" in page
    assert "RMIA AUC" in page

    capsys.readouterr()
    assert twin(there, "--only", FIRST + LATER) == 0
    assert "begins" not in capsys.readouterr().out
    assert {name: entry["time"] for name, entry in checks(there).items()} == {
        name: entry["time"] for name, entry in found.items()
    }
    assert twin(there, "--unpack", str(tmp_path / "carried"), "--plan", "5", "--only", FIRST) == 0
    assert "done=5 fits=0 later=0" in capsys.readouterr().out


def test_a_training_that_the_end_stops_goes_on_from_its_last_epoch(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(table, "TWIN", dataclasses.replace(TWIN, epochs=8))
    assert twin(tmp_path, "--only", "epoch") == 0
    curve, log = (
        tmp_path / "table" / "original" / "0curve.jsonl",
        tmp_path / "table" / "original" / "log.txt",
    )
    with (
        monkeypatch.context() as patch
    ):  # the end comes in the third epoch or later: the second one is saved then
        patch.setattr(
            table.Table, "is_over", lambda stage: log.is_file() and " epoch 3/8 " in log.read_text()
        )
        assert (
            table.main(["--twin", "--out", str(tmp_path), "--at_once", "2", "--only", "original"])
            == 3
        )
    assert "original: stopped" in capsys.readouterr().out
    assert "stopped by SIGTERM" in log.read_text()
    assert "original" not in checks(tmp_path)
    assert 2 <= len(curve.read_text().splitlines()) < 8
    assert twin(tmp_path, "--only", "original") == 0
    assert log.read_text().count(" epoch 1/8 ") == 1
    assert [json.loads(line)["epoch"] for line in curve.read_text().splitlines()] == list(
        range(1, 9)
    )
    assert (
        "work" not in checks(tmp_path)["original"]["found"]
    )  # a part of it tells nothing of the whole


def test_two_at_once_are_measured_and_a_broken_unit_costs_no_other(tmp_path, monkeypatch, capsys):
    flags = ["--twin", "--out", str(tmp_path)]
    assert table.main([*flags, "--only", "epoch,at_once"]) == 0
    tried = checks(tmp_path)["at_once"]["found"]
    assert tried["units"] == [1, 2]
    assert tried["gain_of_2"] == pytest.approx(2 / tried["slower"][1])
    monkeypatch.setattr(
        table,
        "units_of",
        lambda *args: [
            each
            for each in units_of(*args)
            if each.name in ("original", "retrain_2", "FT_2", "GA_2")
        ],
    )
    assert twin(tmp_path, "--only", "original") == 0
    broken = tmp_path / "table" / "FT_2"
    broken.mkdir()
    (broken / "FTcheckpoint.pth.tar").write_bytes(b"no checkpoint")
    assert table.main([*flags, "--at_once", "2", "--only", "FT_2,GA_2"]) == 1
    found = checks(tmp_path)
    assert found["GA_2"]["ok"]
    assert not found["FT_2"]["ok"]
    assert "exit code 2" in found["FT_2"]["error"]
    assert "begins beside" in capsys.readouterr().out
    assert table.main([*flags, "--at_once", "1", "--only", "FT_2", "--again"]) == 0
    assert checks(tmp_path)["FT_2"]["ok"]
    # The time is over before anything begins.
    assert table.main([*flags, "--at_once", "1", "--only", "retrain_2", "--minutes", "0"]) == 3
