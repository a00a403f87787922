"""What the library says of arguments, the command line says of flags; and what it copies agrees."""

import pytest
import typer.main

from pass_transfer.budgets import ROUND_TO
from pass_transfer.cli import options
from pass_transfer.cli.main import app
from pass_transfer.cli.words import RENAMED, in_flags
from pass_transfer.scoring.registry import METHODS

SAID = [
    ("macs is 2; give a share", "macs", "--macs is 2; give a share"),
    ("macs is 2; give a share", None, "macs is 2; give a share"),
    ("round_to is 0; it is whole", "round_to", "--round-to is 0; it is whole"),
    ("prior is 'both'; choose", "prior", "prior is 'both'; choose"),  # no flag is called so
    ("image_size is 0", "image_size", "--image-size is 0"),
    ("continue with resume=True", None, "continue with --resume"),
    ("continue it: adapt with resume=True.", None, "continue it: adapt with --resume."),
    ("continue (resume), or replace (force)", None, "continue (--resume), or replace (--force)"),
    ("give it as backbone=, and none", None, "give it as --backbone, and none"),
    ("reconstruct=False leaves it out", None, "--no-reconstruct leaves it out"),
    ("here is macs=0.5 and params=3M", None, "here is --macs 0.5 and --params 3M"),
    ("try round_to=8", None, "try --round-to 8"),
    ("latency_ms=60.5, batch=32.", None, "--latency-ms 60.5, --batch 32."),
    ("PASS_TRANSFER_BUILD=none, x=3 (sic)", None, "PASS_TRANSFER_BUILD=none, x=3 (sic)"),
    ("--set steps=50", None, "--set steps=50"),
    ("in /data/macs=3/photos", None, "in /data/macs=3/photos"),
]


@pytest.fixture(scope="module")
def command():
    return typer.main.get_command(app)


@pytest.mark.parametrize("message, argument, said", SAID, ids=[said for _, _, said in SAID])
def test_arguments_become_flags_where_there_are_such_flags(command, message, argument, said):
    assert in_flags(message, argument, command) == said


def test_every_flag_that_an_old_one_is_now_exists(command):
    adapt = command.commands["adapt"]
    flags = {flag for option in adapt.params for flag in (*option.opts, *option.secondary_opts)}
    assert not flags & set(RENAMED)
    assert {new.split()[0] for new in RENAMED.values()} <= flags


def test_channels_are_rounded_as_the_library_rounds_them():
    assert options.ROUND_TO == ROUND_TO


def test_the_help_names_every_method():
    words = options.METHOD_HELP.replace(",", " ").replace(":", " ").replace(".", " ").split()
    assert set(METHODS) <= set(words)


def test_settings_are_read_as_a_studys_are():
    given = ["steps=50", "lr=1e-3", "lr=0.001", "deploy-prompt=false", "prior=source", "data="]
    assert options.settings(given) == {
        "steps": 50,
        "lr": 0.001,
        "deploy_prompt": False,
        "prior": "source",
        "data": None,
    }
    assert options.settings(None) == {}
