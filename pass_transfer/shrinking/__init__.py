"""From masks to a trained small network.

Removal, reconstruction, BatchNorm, classifier, fine-tuning, distillation.
"""
