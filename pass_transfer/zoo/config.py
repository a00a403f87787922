"""An entry's config.json, read and checked. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pass_transfer.errors import StorageError, UsageError, ZooError
from pass_transfer.files import read_object
from pass_transfer.settings import OBJECT, TEXT, check_fields, listed, named, shown, whole
from pass_transfer.zoo.catalogue import CONFIG

SCHEMA = 1
FIELDS = {
    "fingerprint": TEXT,
    "backbone": OBJECT,
    "groups": named(whole(1)),
    "hypernet": OBJECT,
    "prompt": OBJECT,
    "source": OBJECT,
}
NOTED = {"library": TEXT, "recipe": OBJECT, "results": OBJECT}
BACKBONE = {"architecture": TEXT, "classes": whole(1), "image_size": whole(1)}
SOURCE = {"task": TEXT, "class_names": listed(TEXT)}


def read_config(folder: Path) -> dict[str, Any]:
    """An entry's config.json, with every field of its kind.

    What the fields of backbone, hypernet and prompt mean is checked where they are used. An
    entry of before images kept their shape says nothing of it; what is made of it now keeps it.

    Raises:
        ZooError: a damaged one, one of another schema, or the field that is wrong.
    """
    path = folder / CONFIG
    try:
        config = read_object(path)
        check_fields(config, {"schema": whole()})
        if config["schema"] != SCHEMA:
            said = f"{folder}: schema {shown(config['schema'])}, this version reads {SCHEMA}"
            raise ZooError(f"{said}; upgrade pass-transfer")
        check_fields(config, FIELDS, NOTED)
        check_fields(config["backbone"], BACKBONE)
        check_fields(config["source"], SOURCE)
    except StorageError as error:
        raise ZooError(str(error)) from error
    except UsageError as error:
        raise ZooError(f"{path} is not that of an entry: {error}") from error
    classes, names = config["backbone"]["classes"], config["source"]["class_names"]
    if classes != len(names):
        raise ZooError(f"{path}: the backbone has {classes} classes, its source {len(names)}")
    config["backbone"].setdefault("fit", "crop")
    return config
