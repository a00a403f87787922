"""Whatever a caller has set: our own surroundings within a call, and the caller's after it."""

import importlib
import inspect
import multiprocessing
import os
import random
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pass_transfer as pt
from pass_transfer.networks import build_backbone
from pass_transfer.prompts import Prompt
from pass_transfer.surroundings import as_guest, in_own_modes

DTYPES = (torch.float32, torch.float64, torch.float16)
MODES = {
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "no inference": lambda: torch.inference_mode(False),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", torch.float16),
    "no autocast": lambda: torch.autocast("cpu", enabled=False),
    "no cache": lambda: torch.autocast("cpu", torch.bfloat16, cache_enabled=False),
    "meta": lambda: torch.device("meta"),
}
OURS = (True, False, False, 0, "cpu")


def modes():
    """Of this thread: gradients, inference mode, autocast and its depth, default device."""
    depth = torch.autocast_increment_nesting() - 1
    torch.autocast_decrement_nesting()
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        depth,
        torch.get_default_device().type,
    )


def process_state():
    return (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.get_rng_state().tolist(),
        random.getstate(),
        list(warnings.filters),
        multiprocessing.get_start_method(allow_none=True),
    )


def disturb():
    """What a call of ours may do."""
    torch.manual_seed(random.randrange(9))
    torch.set_num_threads(1 + torch.get_num_threads())
    warnings.simplefilter("ignore", FutureWarning)
    multiprocessing.get_context().Lock()
    return torch.rand(3), modes()


@pytest.fixture(autouse=True)
def as_before():
    """The state of this process stays as it is, whatever a test sets."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    yield
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)


@given(st.lists(st.sampled_from(sorted(MODES)), max_size=5), st.sampled_from(DTYPES), st.integers())
def test_within_a_call_all_is_ours_and_after_it_all_is_the_callers(entered, dtype, seed):
    with ExitStack() as caller:
        caller.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(dtype)
        torch.manual_seed(seed % 2**32)
        for name in entered:
            caller.enter_context(MODES[name]())
        before = process_state(), modes()
        drawn, within = as_guest(disturb)()
        assert within == OURS
        assert drawn.dtype == torch.float32 and not drawn.is_inference() and not drawn.is_meta
        assert (process_state(), modes()) == before
        assert in_own_modes(modes)() == OURS
        assert (process_state(), modes()) == before


@pytest.mark.parametrize("ending", [ValueError, KeyboardInterrupt, SystemExit])
def test_also_after_an_error_or_ctrl_c_all_is_the_callers(ending):
    @as_guest
    def fail():
        disturb()
        raise ending

    torch.set_default_dtype(torch.float64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before = process_state(), modes()
        with pytest.raises(ending):
            fail()
        assert (process_state(), modes()) == before


def test_what_is_drawn_does_not_follow_the_callers_seed():
    draw = as_guest(lambda: torch.rand(4))
    torch.manual_seed(1)
    first = draw()
    torch.manual_seed(2)
    assert torch.equal(draw(), first)


def test_a_call_within_a_call_goes_on_with_the_same_numbers():
    inner = as_guest(lambda: torch.rand(2))
    outer = as_guest(lambda: (inner(), inner()))
    one, other = outer()
    assert not torch.equal(one, other)


def test_weights_under_the_callers_autocast_are_cast_again_after_every_step():
    def trained():
        layer = torch.nn.Linear(2, 1, bias=False)
        torch.nn.init.ones_(layer.weight)
        images, seen = torch.ones(1, 2), []
        for _ in range(3):
            with torch.autocast("cpu", torch.bfloat16):
                loss = layer(images).float().sum()
            seen.append(loss.item())
            layer.weight.grad = None
            loss.backward()
            with torch.no_grad():
                layer.weight -= layer.weight.grad
        return seen

    with torch.autocast("cpu", torch.bfloat16):
        assert as_guest(trained)() == [2.0, 0.0, -2.0]


def test_two_threads_take_turns_and_each_has_its_own_numbers():
    both = threading.Barrier(2, timeout=30)

    def call(number):
        both.wait()
        return drawing(number)

    @as_guest
    def drawing(number):
        torch.manual_seed(number)
        return torch.stack([torch.rand(()) for _ in range(200)])

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(call, (1, 2)))
    for number, drawn in zip((1, 2), found):
        assert torch.equal(drawn, drawing(number))


# What neither draws nor computes, so that many threads may call it at once.
ALONE = {"read_image", "register_network"}
PUBLIC = {name: getattr(pt, name) for name in pt.__all__}
FUNCTIONS = [name for name, value in PUBLIC.items() if inspect.isfunction(value)]
RECIPES = ("adapt", "bench", "convert", "eval", "export", "finetune", "inspect", "predict", "prune")
RECIPES += ("search",)


def test_every_public_function_and_every_recipe_is_a_guest():
    made = [PUBLIC[name] for name in FUNCTIONS if name not in ALONE]
    for name in RECIPES:
        recipe = importlib.import_module(f"pass_transfer.recipes.{name}")
        made.append(recipe.evaluate if name == "eval" else getattr(recipe, name))
    assert len(made) > 10
    for function in made:
        inner = inspect.unwrap(function)
        guest = as_guest(inner)
        assert function.__code__ is guest.__code__, function.__qualname__


@pytest.fixture(scope="module")
def tiny(entries):
    """The folder of an entry with a small hypernetwork."""
    return entries(hidden=16, encoder=(4, 8))


@pytest.fixture(scope="module")
def hypernet(tiny):
    return pt.load_hypernet(tiny)


def test_what_is_made_in_inference_mode_works_outside_of_it(tiny, hypernet):
    with torch.inference_mode():
        loaded = pt.load_hypernet(tiny)
        prompt, own = Prompt(size=32, pad=3), loaded.prompt()
        backbone = build_backbone(hypernet.spec).eval()
        masks = loaded.generate_masks(own, macs=0.5)
        small = masks.apply(loaded.backbone())
    assert masks == hypernet.generate_masks(hypernet.prompt(), macs=0.5)
    images = torch.rand(1, 3, 32, 32)
    small(images).sum().backward()
    masks.apply(backbone)(images).sum().backward()
    assert hypernet.generate_masks(prompt, macs=0.5).widths == masks.widths
    assert hypernet.with_backbone(backbone).generate_masks(own, macs=0.5).widths == masks.widths


def test_masks_are_the_same_under_any_state_of_the_caller(tiny, hypernet):
    expected = hypernet.generate_masks(hypernet.prompt(), macs=0.4)
    small = expected.apply(hypernet.backbone()).state_dict()
    torch.set_default_dtype(torch.float64)
    for mode in MODES.values():
        with mode():
            loaded = pt.load_hypernet(tiny)
            masks = loaded.generate_masks(loaded.prompt(), macs=0.4)
            found = masks.apply(loaded.backbone()).state_dict()
        assert masks == expected
        assert all(torch.equal(tensor, small[name]) for name, tensor in found.items())
        assert all(tensor.dtype == small[name].dtype for name, tensor in found.items())


def test_a_budget_in_milliseconds_draws_nothing_of_the_callers(hypernet):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    hypernet.generate_masks(hypernet.prompt(), latency_ms=10_000, round_to=64)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_process_that_is_forked_during_a_call_waits_for_nothing():
    started, end = threading.Event(), threading.Event()

    @as_guest
    def busy():
        started.set()
        end.wait(60)

    thread = threading.Thread(target=busy)
    thread.start()
    started.wait(60)
    child = os.fork()
    if child == 0:
        as_guest(lambda: None)()
        os._exit(0)
    try:
        for _ in range(300):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            time.sleep(0.1)
        else:
            os.kill(child, 9)
        assert done and status == 0
    finally:
        end.set()
        thread.join()
