import numpy as np
import pytest
import torch

from pass_transfer.tasks import Split
from pass_transfer.tasks.readers import CachedImages
from pass_transfer.training import confusion_matrix, evaluate


def split_of(labels: np.ndarray) -> Split:
    """Image n is of colour n % 256; its position is n."""
    pixels = np.zeros((len(labels), 2, 2, 3), np.uint8)
    places = np.arange(len(labels))
    pixels[..., 0] = (places % 256)[:, None, None]
    pixels[..., 1] = (places // 256)[:, None, None]
    return Split(CachedImages(pixels), places, labels)


@pytest.mark.parametrize("count, classes", [(1, 10), (300, 10), (600, 3)])
def test_accuracies_are_percentages_of_all_images(cpu, count, classes):
    draw = np.random.default_rng(0)
    labels, logits = draw.integers(0, classes, count), draw.normal(size=(count, classes))

    def network(images: torch.Tensor) -> torch.Tensor:
        numbers = (255 * images[:, :2, 0, 0]).round().long()
        return torch.from_numpy(logits).float()[numbers[:, 0] + 256 * numbers[:, 1]]

    accuracy = evaluate(network, split_of(labels), cpu)
    place = (logits > logits[np.arange(count), labels][:, None]).sum(1)
    assert accuracy.top1 == pytest.approx(100 * (place == 0).mean())
    assert accuracy.top5 == pytest.approx(100 * (place < 5).mean())
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert accuracy.loss == pytest.approx(
        -np.log(probabilities[np.arange(count), labels]).mean(), rel=1e-5
    )
    assert accuracy.images == count
    assert accuracy.predictions.tolist() == logits.argmax(1).tolist()


def test_confusion_counts_every_image_once_at_its_true_and_predicted_class():
    draw = np.random.default_rng(1)
    labels, predictions = draw.integers(0, 4, 50), draw.integers(0, 4, 50)
    expected = np.zeros((5, 5), int)  # a class that no image has
    np.add.at(expected, (labels, predictions), 1)
    found = confusion_matrix(torch.from_numpy(labels), torch.from_numpy(predictions), 5)
    assert found.tolist() == expected.tolist()
