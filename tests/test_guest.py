"""Whole runs inside other programs: the same bytes, and the program's state as it was."""

import asyncio
import json
import os
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import pass_transfer as pt

FILES = ["model.safetensors", "model.json", "masks.safetensors", "scores.safetensors"]
FILES += ["prompt.safetensors", "evaluation.safetensors"]
QUICK = {"epochs": 1, "batch_size": 256, "reconstruct": False, "device": "cpu"}


@pytest.fixture(scope="module")
def tiny(entries):
    """The folder of an entry with a small hypernetwork."""
    return entries(hidden=16, encoder=(4, 8))


@pytest.fixture(scope="module")
def run(tiny):
    """(folder, more) -> that folder, with a run of a few seconds in it."""

    def adapt(out, **more):
        given = {**QUICK, "settings": {"steps": 2}, **more}
        pt.adapt(pt.load_hypernet(tiny), "digits", macs=0.5, out=out, **given)
        return out

    return adapt


def content(folder):
    """What a run hands over, but for what is measured in seconds."""
    result = json.loads((folder / "result.json").read_text())
    numbers = {name: value for name, value in result.items() if "seconds" not in name}
    for name in ("run", "latency_ms", "dense_latency_ms"):
        numbers.pop(name)
    return numbers, {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def plain(run, tmp_path_factory):
    """What a run in an untouched program hands over."""
    return content(run(tmp_path_factory.mktemp("plain") / "run"))


def in_float64(call):
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)
    try:
        with torch.no_grad(), torch.autocast("cpu", torch.float16):
            return call()
    finally:
        torch.set_default_dtype(torch.float32)


def in_inference_mode(call):
    with torch.inference_mode(), torch.device("meta"):
        return call()


def in_an_event_loop(call):
    async def cell():
        return call()

    return asyncio.run(cell())


def in_a_pool(call):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


@pytest.mark.parametrize(
    "inside", [in_float64, in_inference_mode, in_an_event_loop, in_a_pool], ids=lambda f: f.__name__
)
def test_a_run_ends_with_the_same_bytes_inside_any_program(run, plain, tmp_path, inside):
    out = inside(lambda: run(tmp_path / "run"))
    assert content(out) == plain


def test_two_threads_with_a_run_each_end_as_each_alone(run, plain, tmp_path):
    threads = [
        threading.Thread(target=run, args=(tmp_path / str(seed),), kwargs={"seed": seed})
        for seed in (1, 0)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert content(tmp_path / "0") == plain
    assert content(tmp_path / "1")[1] != plain[1]


PROGRAM = """
import faulthandler, json, locale, logging, multiprocessing, os, random, signal, sys, warnings
import accelerate, accelerate.state, datasets, matplotlib, numpy as np, PIL.Image, PIL.ImageFile
import torch

entry, out, images = sys.argv[1:]
if not os.environ.get("LATER"):
    accelerator = accelerate.Accelerator(mixed_precision="bf16", cpu=True)
accelerate.utils.set_seed(11)
torch.set_default_dtype(torch.float64)
torch.set_num_threads(2)
torch.set_grad_enabled(False)
torch.set_float32_matmul_precision("high")
torch.use_deterministic_algorithms(True, warn_only=True)
logging.basicConfig(level=logging.ERROR)
logging.getLogger("datasets").setLevel(logging.CRITICAL)
warnings.simplefilter("error")
matplotlib.rcParams["figure.dpi"] = 31
signal.signal(signal.SIGINT, signal.SIG_IGN)


def state():
    loggers = {name: logging.getLogger(name) for name in known}
    draws = np.random.get_state()
    return {
        "random": random.getstate(),
        "numpy": (draws[1].tolist(), draws[2:]),
        "torch": torch.get_rng_state().tolist(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul": torch.get_float32_matmul_precision(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "cuda seeds": repr(vars(torch.cuda._lazy_seed_tracker)),
        "warnings": (list(warnings.filters), warnings.showwarning),
        "root": (logging.root.level, list(logging.root.handlers), logging.root.manager.disable),
        "loggers": {n: (l.level, list(l.handlers), l.propagate) for n, l in loggers.items()},
        "accelerate": accelerate.state.AcceleratorState._shared_state.copy(),
        "partial": accelerate.state.PartialState._shared_state.copy(),
        "bars": datasets.are_progress_bars_disabled(),
        "matplotlib": dict(dict.items(matplotlib.rcParams)),
        "pillow": (PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES),
        "signals": {n: signal.getsignal(n) for n in signal.valid_signals() if n != SIGCHLD},
        "start method": multiprocessing.get_start_method(allow_none=True),
        "hooks": (sys.excepthook, sys.stdout, sys.stderr, sys.displayhook),
        "place": (os.getcwd(), sys.path.copy(), locale.setlocale(locale.LC_ALL)),
        "printing": (repr(torch._tensor_str.PRINT_OPTS), repr(np.get_printoptions())),
    }


SIGCHLD = getattr(signal, "SIGCHLD", None)  # of DataLoader's workers, once for the whole process
TRACE = "torch.__trace"  # torch's own, which takes its handler off when it is first used
known = [name for name in logging.root.manager.loggerDict if name != TRACE]
before = state()


def check(after):
    now = state()
    for name, value in before.items():
        assert now[name] == value, (after, name, value, now[name])


import pass_transfer as pt
from pass_transfer.scoring.prompt_tuning import PromptConfig
quick = {"epochs": 1, "batch_size": 256, "reconstruct": False, "settings": {"steps": 1}}


def adapt():
    return pt.adapt(hypernet, "digits", out=out, device="cpu", **quick)


hypernet = pt.load_hypernet(entry)
check("load_hypernet")
masks = hypernet.generate_masks(hypernet.prompt(), macs=0.5)
check("generate_masks")
masks.apply(hypernet.backbone())
check("apply")
adapt()
check("adapt")
model = pt.load_pruned(out)
check("load_pruned")
model.export(out + "/small.onnx")
model.export(out + "/small.pt2")
check("export")
pt.write_report(out)
check("write_report")
model.evaluate("digits", device="cpu")
check("evaluate")
model.predict([images])
check("predict")
pt.tune_prompt(hypernet, pt.load_task("digits", 32), config=PromptConfig(steps=1))
check("tune_prompt")
for refused in (adapt, lambda: pt.load_pruned(entry), lambda: pt.load_task("folder:none", 8)):
    try:
        refused()
    except pt.PassTransferError:
        check("a refusal")
    else:
        raise SystemExit("not refused")
if os.environ.get("LATER"):
    assert not before["partial"]
    accelerator = accelerate.Accelerator(mixed_precision="bf16", cpu=True)
assert accelerator.mixed_precision == "bf16"
layer = accelerator.prepare(torch.nn.Linear(2, 2, dtype=torch.float32))
assert layer(torch.ones(1, 2, dtype=torch.float32)).isfinite().all()
multiprocessing.set_start_method("spawn")
print("as before")
"""


@pytest.mark.parametrize("later", ["", "1"], ids=["Accelerator before", "Accelerator after"])
def test_a_program_with_an_accelerator_and_settings_of_its_own_stays_as_it_is(
    tiny, tmp_path, later
):
    from PIL import Image

    Image.new("RGB", (40, 30)).save(tmp_path / "photo.png")
    command = [sys.executable, "-c", PROGRAM, tiny, tmp_path / "run", tmp_path / "photo.png"]
    environment = os.environ | {
        "LATER": later,
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
    }
    done = subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "as before\n", done.stderr
