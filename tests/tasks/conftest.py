"""What tests of several files here look at."""

import pytest

from pass_transfer.tasks import images as tasks_images


@pytest.fixture
def decoded(monkeypatch):
    """The contents that are decoded while a test runs."""
    seen = []
    real = tasks_images.picture
    monkeypatch.setattr(
        tasks_images, "picture", lambda content, *how: seen.append(content) or real(content, *how)
    )
    return seen
