"""From a folder of photos to a small network, in one call.

    python examples/own_photos.py              # handwritten digits, quickly: less than a minute
    python examples/own_photos.py photos       # your own, as photos/CLASS/image, with care

`--quick` takes few steps with your own photos, too.
"""

import argparse
from pathlib import Path

import pass_transfer as pt

CARE = {"method": "prompt", "effort": "quick"}  # the defaults
QUICK = {
    "method": "prompt",
    "settings": {"steps": 10, "prior": "source"},
    "reconstruct": False,
    "epochs": 2,
}


def main() -> None:
    """Adapt, read the small network back, use it, and export it."""
    parser = argparse.ArgumentParser(description="A small network for your own photos.")
    parser.add_argument("photos", nargs="?", help="folder with a folder of images for each class")
    parser.add_argument("--quick", action="store_true", help="few steps, as with the digits")
    parser.add_argument("--out", type=Path, default=Path("runs/own_photos"))
    arguments = parser.parse_args()

    task = f"folder:{arguments.photos}" if arguments.photos else "digits"
    how = QUICK if arguments.quick or not arguments.photos else CARE
    result = pt.adapt(
        "zoo/r18_tinyimnet", task=task, macs=0.5, out=arguments.out, force=True, **how
    )
    print(f"top-1 on {result['images']} test images: {result['top1']:.1f} %")
    print(f"MACs: {result['macs'] / result['dense_macs']:.0%} of the dense network's")

    model = pt.load_pruned(arguments.out)
    if arguments.photos:
        photo = min(path for path in Path(arguments.photos).rglob("*") if path.is_file())
        print(f"{photo}: {model.predict([photo], top=2)[0]}")
    model.export(arguments.out / "small.onnx")
    print(f"for other programs: {arguments.out / 'small.onnx'}")


if __name__ == "__main__":
    main()
