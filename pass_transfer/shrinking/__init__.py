"""From masks to a trained small network: removal, reconstruction, BatchNorm, classifier, fine-tuning."""
