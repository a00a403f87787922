import numpy as np
import pytest
import torch

from pass_transfer.errors import StorageError
from pass_transfer.files import read_tensors, write_tensors
from pass_transfer.runs.evaluation import EVALUATION, SAMPLES, Evaluation, load_evaluation
from pass_transfer.tasks import Split
from pass_transfer.tasks.readers import CachedImages

CLASSES = 3


def split_of(count):
    """Image n has the brightness n."""
    return Split(
        CachedImages(
            np.arange(count, dtype=np.uint8)[:, None, None, None]
            .repeat(4, 1)
            .repeat(4, 2)
            .repeat(3, 3)
        ),
        np.arange(count),
        np.arange(count) % CLASSES,
    )


@pytest.mark.parametrize("count", [1, 5, SAMPLES, 100])
def test_what_was_saved_comes_back_with_samples_from_the_first_to_the_last_image(tmp_path, count):
    split, predictions = split_of(count), torch.arange(count) * 7 % CLASSES
    Evaluation.of(split, predictions, CLASSES).save(tmp_path)
    found = load_evaluation(tmp_path, CLASSES)
    places = found.samples[:, 0, 0, 0].long()
    assert (
        len(places) == min(SAMPLES, count)
        and places[0] == 0
        and (places[-1] == count - 1 or count == 1)
    )
    assert places.diff().tolist() == [] or places.diff().max() - places.diff().min() <= 1
    assert torch.equal(found.sample_labels, places % CLASSES) and torch.equal(
        found.sample_predictions, predictions[places]
    )
    assert (
        found.confusion.sum() == count
        and found.confusion.sum(1).tolist() == np.bincount(split.labels, minlength=CLASSES).tolist()
    )


def test_a_run_that_saved_none_has_none(tmp_path):
    assert load_evaluation(tmp_path, CLASSES) is None


@pytest.mark.parametrize(
    "change",
    [
        {"confusion": torch.zeros(2, 2, dtype=torch.int64)},
        {"confusion": torch.zeros(3, 3)},
        {"samples": torch.zeros(5, 3, 4, 4)},
        {"samples": torch.zeros(5, 4, dtype=torch.uint8)},
        {"sample_labels": torch.tensor([0, 1, 2, 3, 0])},
        {"sample_predictions": torch.tensor([-1, 0, 0, 0, 0])},
        {"sample_predictions": torch.tensor([0])},
        {"more": torch.zeros(1)},
    ],
    ids=str,
)
def test_tensors_that_do_not_fit_are_refused(tmp_path, change):
    Evaluation.of(split_of(5), torch.zeros(5, dtype=torch.int64), CLASSES).save(tmp_path)
    write_tensors(tmp_path / EVALUATION, read_tensors(tmp_path / EVALUATION) | change)
    with pytest.raises(StorageError, match=EVALUATION):
        load_evaluation(tmp_path, CLASSES)
