"""The Hugging Face hub, through its own client: folders from it, files to it, model cards.

Imports no torch, and the client only where something is asked of the hub.
"""

from pass_transfer.hub.download import download, dropped_if_damaged
from pass_transfer.hub.names import HUB_PREFIX, check_repository, pinned
from pass_transfer.hub.words import in_words, quiet

__all__ = [
    "HUB_PREFIX",
    "check_repository",
    "download",
    "dropped_if_damaged",
    "in_words",
    "pinned",
    "quiet",
]
