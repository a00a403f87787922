"""PrunedModel: the small network that adapt hands over."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pass_transfer.arguments import check_is, check_path
from pass_transfer.errors import UsageError
from pass_transfer.hub import HUB_PREFIX, pinned
from pass_transfer.progress import say
from pass_transfer.pruned.deployed import DeployedNetwork
from pass_transfer.pruned.export import export_model
from pass_transfer.pruned.folder import read_folder, write_folder
from pass_transfer.settings import is_whole, shown
from pass_transfer.surroundings import as_guest

if TYPE_CHECKING:
    from pass_transfer.tasks.labelled import LabelledImages
    from pass_transfer.training import Accuracy


class PrunedModel(DeployedNetwork):
    """A plain, physically smaller network with everything around it; see DeployedNetwork.

    Images go in as RGB at `spec.image_size`, in [0, 1] or as uint8; prompt, clamping, normalisation
    and the classifier with one row per class are inside.

    Args:
        network: the small network.
        spec: architecture, classes, size and preprocessing.
        class_names: in the order of the logits.
        kept: indices of the units kept in each channel group.
        masks: of single weights, where some are zeros.
    """

    folder: Path | None = None  # where it was loaded from, with what the run keeps of its images

    def predict(
        self, paths: Sequence[str | Path], top: int = 1, batch_size: int = 32
    ) -> list[list[tuple[str, float]]]:
        """The `top` likeliest classes of image files, each with its probability, likeliest first.

        Images are read as in training (docs/data.md), on the device and in the dtype the model
        is in.

        Raises:
            TaskError: a file that is missing or no image; it is named.
            UsageError: a `top` that is not between 1 and the number of classes, no list of
                paths, or no batch_size.
        """
        from pass_transfer.tasks import read_image

        self.check_top(top)
        check_is("paths", paths, (list, tuple), "a list of paths")
        if not is_whole(batch_size):
            message = f"batch_size is {shown(batch_size)}; it is a whole number from 1"
            raise UsageError(message, "batch_size")
        found, preprocessing = [], self.spec.preprocessing
        for first in range(0, len(paths), batch_size):
            some = paths[first : first + batch_size]
            images = torch.stack([read_image(path, preprocessing) for path in some])
            found += self.classify(images.to(memory_format=torch.channels_last), top)
        return found

    @torch.no_grad()
    def classify(self, images: torch.Tensor, top: int = 1) -> list[list[tuple[str, float]]]:
        """The `top` likeliest classes of images (B, 3, S, S) in [0, 1], with probabilities.

        Raises UsageError for a `top` that is not between 1 and the number of classes.
        """
        self.check_top(top)
        weight = next(self.network.parameters())
        best = self(images.to(weight.device, weight.dtype)).float().softmax(1).topk(top)
        found = []
        for classes, shares in zip(best.indices.tolist(), best.values.tolist()):
            names = [self.class_names[number] for number in classes]
            found.append(list(zip(names, shares)))
        return found

    def check_top(self, top: int) -> None:
        """Raise UsageError where the model has not so many classes."""
        if not is_whole(top) or top > len(self.class_names):
            count = len(self.class_names)
            raise UsageError(f"top is {shown(top)}; the model knows {count} classes", "top")

    @as_guest
    def export(self, path: str | Path, format: str | None = None) -> dict[str, Any]:
        """Write it for other runtimes, as ONNX or .pt2; see export_model."""
        return export_model(self, path, format)

    @as_guest
    def evaluate(
        self,
        task: str | LabelledImages,
        data_dir: str | None = None,
        device: str = "auto",
        precision: str = "auto",
    ) -> Accuracy:
        """Top-1 and top-5, in percent, on a task's test images, or on new labelled images.

        The model moves to the device and stays there. What to know of the images is said on
        stderr: those that the model was trained on, and classes without any.

        Args:
            task: a name, folder:PATH with one folder of images per class, or what `labelled`
                gives.

        Raises:
            TaskError: images that cannot be loaded, or of classes that the model does not know.
            UsageError: an unknown task, device or precision.
        """
        from pass_transfer.tasks.labelled import LabelledImages
        from pass_transfer.training import choose_runtime, evaluate

        images = task if isinstance(task, LabelledImages) else self.labelled(task, data_dir)
        for warning in images.warnings():
            say(f"warning: {warning}")
        runtime = choose_runtime(device, precision)
        runtime.place(self.eval())
        return evaluate(self.network, images.split, runtime)

    def labelled(self, task: str, data_dir: str | None = None) -> LabelledImages:
        """A task's images with the model's class numbers; see load_labelled."""
        from pass_transfer.tasks.labelled import load_labelled
        from pass_transfer.tasks.record import read_data

        data = {} if self.folder is None else read_data(self.folder)
        seen = self.spec.preprocessing
        return load_labelled(task, seen, self.class_names, data_dir, data)

    def save(self, folder: str | Path) -> None:
        """Write model.json and model.safetensors.

        Raises:
            StorageError: it cannot be written. A reader never sees half a file.
        """
        check_path("folder", folder)
        write_folder(folder, self)

    @as_guest
    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool = False,
        license: str | None = None,
        result: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Put it on the Hugging Face hub, where load_pruned("hf-hub:owner/name") finds it.

        Three files: those that `save` writes, and a model card. Nothing of the images goes along.

        Args:
            repository: "owner/name"; it is made where there is none.
            private: whether it is to be private.
            license: of the weights, as the hub names it; "unknown" without one.
            result: what a run measured, as its result.json has it, for the card.

        Returns:
            "repository", "commit" (a revision for load_pruned), "url", and "files": name to
            sha-256, as they are on the hub.

        Raises:
            UsageError: what can be no repository's name.
            HubError: what the hub refused, or did not keep as it was sent.
        """
        from pass_transfer.pruned.share import push_folder

        with tempfile.TemporaryDirectory() as aside:
            self.save(aside)
            return push_folder(
                Path(aside), self, repository, private=private, license=license, result=result
            )


@as_guest
def load_pruned(folder: str | Path, revision: str | None = None) -> PrunedModel:
    """Load the model of a run, in eval mode, on the CPU, in float32.

    Args:
        folder: a run folder of adapt, what PrunedModel.save wrote, or hf-hub:owner/name
            with these two files, perhaps with @revision behind it.
        revision: of hf-hub:owner/name: a branch, a tag or a commit; the newest by default.

    Raises:
        UsageError: a revision of anything else.
        RunError: no model there, or not to be had from the hub.
        StorageError: a file that is damaged, altered, does not fit its description, or
            does not belong to it.
    """
    check_path("folder", folder)
    folder = pinned(folder, revision)
    saved = read_folder(folder)
    model = PrunedModel(saved.network, saved.spec, saved.class_names, saved.kept, saved.masks)
    model.folder = None if str(folder).startswith(HUB_PREFIX) else Path(folder)
    return model.eval()
