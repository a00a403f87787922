"""Public names and options change on purpose alone: python tools/public_face.py --write"""

import json
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOL = runpy.run_path(str(ROOT / "tools" / "public_face.py"))


def test_the_public_face_is_the_one_that_was_written_down():
    assert TOOL["public_face"]() == json.loads(TOOL["FILE"].read_text(encoding="utf-8"))
