"""Batch normalisation: stored statistics, which masks and removal make wrong."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pass_transfer.networks.layers.kind import LayerCost, LayerKind, Role, Undo


class BatchNorm(LayerKind[_BatchNorm]):
    """Batch normalisation on maps of one, two or three dimensions."""

    types = (_BatchNorm,)
    holds_channels = True
    running_statistics = True
    role = Role.NORMALISATION

    def output_channels(self, module: _BatchNorm) -> int:
        """Number of channels."""
        return module.num_features

    def update_sizes(self, module: _BatchNorm) -> None:
        """Channels, from the first tensor that has an entry for each."""
        tensors = module.state_dict().values()
        module.num_features = next((len(t) for t in tensors if t.ndim), module.num_features)

    def cost(self, module: _BatchNorm) -> LayerCost:
        """A factor and a summand for each channel; no multiply-accumulates, as torch counts."""
        return LayerCost(0, 2 if module.affine else 0, 0)

    def restart_statistics(self, module: _BatchNorm) -> Undo:
        """A plain average over the batches to come; the layer goes into training mode."""
        momentum = module.momentum
        module.reset_running_stats()
        module.momentum = None
        module.train()

        def undo() -> None:
            module.momentum = momentum

        return undo

    def use_batch_statistics(self, module: _BatchNorm) -> Undo:
        """No statistics are stored, so that the batch's own are used in either mode."""
        stored = module.track_running_stats, module.running_mean, module.running_var
        module.track_running_stats, module.running_mean, module.running_var = False, None, None

        def undo() -> None:
            module.track_running_stats, module.running_mean, module.running_var = stored

        return undo

    def why_not_fused(self, module: _BatchNorm) -> str:
        """Fused steps know torch's own BatchNorm2d with a weight and a bias."""
        if type(module) is not nn.BatchNorm2d:
            return "is another normalisation than BatchNorm2d"
        return "has no weight" if module.weight is None else ""
