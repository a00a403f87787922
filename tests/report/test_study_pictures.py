"""How the pictures of a study tell methods apart."""

import statistics
from pathlib import Path

import pytest

from pass_transfer.report.few_pictures import few_pictures
from pass_transfer.report.study_pictures import COLOURS, looks_of
from pass_transfer.study import Study, rows
from pass_transfer.study.tasks import StudyTask, variants


def test_many_methods_are_told_apart_by_more_than_colour():
    looks = looks_of(f"method_{n}" for n in range(4 * len(COLOURS)))
    assert len(set(looks.values())) == len(looks)
    some = list(looks.values())[: 2 * len(COLOURS)]
    uncoloured = {(look.marker, look.fillstyle) for look in some}
    assert len(uncoloured) == len(some), "in black and white too"
    assert looks_of(["a", "b", "a"]) == looks_of(["a", "b"])


METHODS = {"mine": {"method": "random"}, "uniform_l1": {}}


def few_study(images, epochs):
    tasks = variants(StudyTask("digits", family="digits"), images, epochs)
    return Study(None, tasks, METHODS, (0.5, 0.25), (0, 1), out=Path("cells"), network="resnet18")


def cells_of(study):
    """A cell for each of a study's, whose accuracy tells which it is."""
    made = []
    for number, cell in enumerate(study.cells()):
        planned = study.tasks[cell.task]
        figures = {"top1": 20 + number % 7 + number / 10, "macs_share": cell.budget - 0.001}
        figures |= dict.fromkeys(("held_out_top1", "held_out_top1_before"), 0.0)
        figures |= dict.fromkeys(("search_seconds", "seconds"), 1.0)
        figures |= {"images_a_class": float(planned.images_per_class or 129.4)}
        made.append(vars(cell) | figures)
    return made


def test_accuracy_is_drawn_against_images_of_a_class_and_the_gain_against_the_size():
    study = few_study([5, 50, None], [0, 3])
    cells = cells_of(study)
    found = few_pictures(rows(cells, list(study.methods)), cells, study)
    images = {f"digits-{epochs}-epochs-{b}-images" for epochs in (0, 3) for b in ("0.5", "0.25")}
    assert set(found) == images | {f"{task}-gain" for task in study.tasks}

    def top1(task, method, budget):
        key = task, method, budget
        own = [c for c in cells if (c["task"], c["method"], c["budget"]) == key]
        return [cell["top1"] for cell in sorted(own, key=lambda cell: cell["seed"])]

    said = found["digits-3-epochs-0.25-images"].alt
    assert "after 3 epochs" in said
    for name, place in (("5-a-class", "5"), ("50-a-class", "50"), ("all", "129.4")):
        mean = statistics.mean(top1(f"digits-{name}-3-epochs", "mine", 0.25))
        assert f"{mean:.2f} at {place}" in said
    task = "digits-5-a-class-0-epochs"
    pairs = zip(top1(task, "mine", 0.5), top1(task, "uniform_l1", 0.5))
    above = statistics.mean(mine - other for mine, other in pairs)
    said = found[f"{task}-gain"].alt
    assert f"{above:.2f} at 50" in said and "points of top-1 above uniform_l1" in said
    assert all(picture.png().startswith(b"\x89PNG") for picture in list(found.values())[:1])


def test_methods_of_single_weights_are_drawn_by_the_share_of_weights():
    tasks = variants(StudyTask("digits", family="digits"), [5, 50], None)
    methods = {"hydra": {}, "magnitude": {}}
    study = Study(None, tasks, methods, (0.2,), (0,), unit="weight", network="resnet18")
    cells = cells_of(study)
    found = few_pictures(rows(cells, list(study.methods)), cells, study)
    assert set(found) == {"digits-0.2-images"}
    assert "20% of the single weights" in found["digits-0.2-images"].alt


@pytest.mark.parametrize("images, epochs", [(None, None), (10, None)])
def test_one_number_of_images_is_no_line(images, epochs):
    study = few_study(images, epochs)
    cells = cells_of(study)
    found = few_pictures(rows(cells, list(study.methods)), cells, study)
    assert set(found) == ({"digits-gain"} if images else set())
