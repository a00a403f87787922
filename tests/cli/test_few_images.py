"""Few images of each class, in adapt and in a study."""

import json

import numpy as np
import pytest

from pass_transfer.recipes import pipeline
from pass_transfer.study import load_study, read_cells

FEW = ("--images-per-class", "6", "--epochs", "1")


def read(path):
    return json.loads(path.read_text())


def test_adapt_records_them_and_goes_on_where_it_was(adapting, call, monkeypatch, tmp_path):
    asked = adapting(*FEW)
    whole = tmp_path / "whole"
    code, _, err = call(*adapting(*FEW, "--out", whole))
    assert code == 0, err
    assert "using 6 training images of each class; 10 images are held out" in err
    assert "channels are measured with a classifier of shrinkage" in err

    def stopped(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "tuned", stopped)
        assert call(*asked)[0] == 130
    code, _, err = call(*asked, "--resume")
    assert code == 0, err
    run = tmp_path / "run"
    config, result = read(run / "config.json"), read(run / "result.json")
    assert (config["images_per_class"], config["images"]) == (6, 60)
    assert config["measuring"] == "cross-validated"
    assert result["data"]["splits"]["train"] == {
        "images": 60, "smallest": ["0", 6], "largest": ["0", 6],
    }  # fmt: skip
    assert (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_another_number_is_refused_when_a_run_is_continued(adapting, call, refused, tmp_path):
    assert call(*adapting(*FEW))[0] == 0
    said = refused(*adapting("--images-per-class", "5", "--epochs", "1"), "--resume")
    assert "images_per_class was 6, now 5" in said or "images was 60, now 50" in said
    said = refused(*adapting("--epochs", "1"), "--resume")
    assert "images_per_class" in said or "images was 60" in said
    said = refused(*adapting(*FEW, "--measuring", "fixed"), "--resume")
    assert "measuring was 'cross-validated', now 'fixed'" in said


def test_what_cannot_be_used_is_refused_in_the_command_lines_words(adapting, refused):
    said = refused(*adapting("--images-per-class", "1"), code=2)
    assert said.startswith("--images-per-class is 1; it is a whole number from 2")
    said = refused(*adapting("--images-per-class", "5000"))
    assert "training images, and 5000 of each class are asked for (--images-per-class)" in said
    said = refused(*adapting("--measuring", "often"), code=2)
    assert "--measuring is 'often'; choose one of auto, fixed, cross-validated" in said


@pytest.fixture
def study(entry, tmp_path):
    """Methods -> path of a study of few digits, before and after an epoch, with the small entry."""

    def write(methods, **more):
        digits = {"task": "digits", "images_per_class": [3, 6], "epochs": [0, 1]}
        fields = {
            "hypernet": str(entry),
            "tasks": {"few": digits},
            "methods": dict.fromkeys(methods),
            "budgets": [0.5],
            "seeds": [0, 1],
            "batch_size": 16,
            "reconstruct": False,
            "out": str(tmp_path / "cells"),
        } | more
        path = tmp_path / "study.yaml"
        path.write_text(json.dumps(fields))
        return path

    return write


def test_a_study_makes_its_cells_with_so_many_images_each_search_once(study, call, tmp_path):
    path = study(["group_l1", "taylor"])
    code, _, err = call("study", "run", path, "--device", "cpu")
    assert code == 0, err
    cells = {(c["task"], c["method"], c["seed"]): c for c in read_cells(load_study(path))}
    assert len(cells) == 2 * 2 * 2 * 2
    assert {(task, cell["images_a_class"]) for (task, _, _), cell in cells.items()} == {
        ("few-3-a-class-0-epochs", 3), ("few-3-a-class-1-epochs", 3),
        ("few-6-a-class-0-epochs", 6), ("few-6-a-class-1-epochs", 6),
    }  # fmt: skip
    searches = {note.stem for note in (tmp_path / "cells/searches").glob("*.json")}
    assert len(searches) == 2 * 2 * 2, "before and after an epoch share one"
    before, after = (cells[f"few-6-a-class-{n}-epochs", "taylor", 0] for n in (0, 1))
    assert before["masks"] == after["masks"]
    assert before["held_out_top1"] == before["held_out_top1_before"]
    other = cells["few-6-a-class-0-epochs", "taylor", 1]
    assert other["masks"] != before["masks"], "another seed draws other images"
    assert call("study", "report", path)[0] == 0
    pictures = {picture.stem for picture in (tmp_path / "cells/report").glob("few-*.png")}
    assert {"few-0-epochs-0.5-images", "few-1-epochs-0.5-images"} <= pictures
    assert "few-6-a-class-1-epochs-gain" in pictures
    again = call("study", "run", path, "--device", "cpu", "--json")
    assert json.loads(again[1])["done"] == 16 and "cells to make" not in again[2]


def test_a_class_with_fewer_images_is_refused_before_a_cell_is_made(study, refused, tmp_path):
    few = {"task": "digits", "images_per_class": 900}
    said = refused("study", "run", study(["random"], tasks={"few": few}))
    assert "900 of each class are asked for" in said
    assert not list((tmp_path / "cells").glob("*.json"))


def test_a_dry_run_counts_by_the_images_that_are_used(study, call):
    code, out, err = call("study", "run", study(["random"]), "--dry-run", "--json")
    found = json.loads(out)
    assert code == 0 and found["cells"] == found["missing"] == 8 and found["seconds"] > 0, err
    assert np.isfinite(found["seconds"])
