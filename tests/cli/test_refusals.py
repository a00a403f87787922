"""Everything that is refused: one message, the right exit code, nothing left behind."""

import json
import re

import pytest

WRONG_VALUES = [
    (["--method", "both"], "prompt, random, selection, "),
    (["--effort", "huge"], "--effort is 'huge'; choose one of quick, full"),
    (["--device", "tpu"], "cpu"),
    (["--device", "cuda"], "device 'cpu'"),
    (["--precision", "int8"], "bf16"),
    (["--label-mapping", "best"], "--label-mapping is 'best'; choose one of auto, linear, freq"),
    (["--set", "image_share=7"], "setting image_share is 7; it is zero or a positive number, at"),
    (["--set", "low=0.9"], "setting low and high are 0.9 and 0.7; they are densities"),
    (["--method", "learned_score", "--set", "high=7"], "setting low and high are 0.55 and 7"),
    (["--macs", "500G"], "--macs is 500G, more than the whole network has: "),
    (["--params", "12M"], "--params is 12M, more than the whole network has: 11181642 parameters"),
    (["--batch", "32"], "--batch is 32; it goes with a budget in milliseconds (--latency-ms)"),
    (["--data-dir", "nodir"], "--data-dir is nodir; digits comes with scikit-learn and takes no"),
    (["--keep-layers", "layer9.*"], "--keep-layers: no layer whose channels could be cut is call"),
    (["--macs", "0"], "--macs"),
    (["--macs", "1.5"], "--macs"),
    (["--macs", "nan"], "--macs"),
    (["--density", "-0.1"], "--density"),
    (["--density", "inf"], "--density"),
    (["--macs", "0.5", "--density", "0.5"], "exactly one"),
    (["--epochs", "0"], "--epochs"),
    (["--epochs", "two"], "--epochs"),
    (["--batch-size", "1"], "--batch-size"),
    (["--set", "steps=-1"], "setting steps is -1"),
    (["--set", "steps"], "--set steps: give KEY=VALUE, such as --set steps=50"),
    (["--set", "=3"], "give KEY=VALUE"),
    (["--set", "steps=many"], "setting steps is 'many'; it is a whole number, by default 150"),
    (["--set", "steps=[1"], "this value cannot be read"),
    (
        ["--set", "stepz=1"],
        "unknown setting 'stepz'; prompt has uniform, coupling, steps (150)",
    ),
    (["--method", "mask", "--set", "steps=1"], "mask has uniform, coupling, deploy_prompt"),
    (["--method", "group_l1", "--set", "images=1"], "group_l1 has uniform, coupling"),
    (["--method", "group_l1", "--set", "coupling=independent"], "a study compares them"),
    (["--lr", "0"], "--lr"),
    (["--lr", "nan"], "--lr"),
    (["--set", "lr=-1"], "setting lr is -1"),
    (["--weight-decay", "-1"], "--weight-decay"),
    (["--seed", "-1"], "--seed"),
    (["--distill", "1.1"], "at most 1"),
    (["--distill", "-0.1"], "--distill"),
    (["--distill", "nan"], "--distill"),
    (["--temperature", "0"], "--temperature"),
    (["--resume", "--force"], "not both"),
    (["--macs", "0.4", "--params", "3M"], "--macs 0.4 and --params 3M"),
    (["--task", "cifar1000"], "Did you mean cifar100"),
    (["--fast"], "--fast"),
]


EARLY = {  # what is refused before a device is chosen and images are read
    "label mapping": ["--label-mapping", "best"],
    "layers": ["--keep-layers", "layer9.*"],
    "task": ["--task", "cifar1000"],
    "batch": ["--batch", "32"],
}


@pytest.mark.parametrize("wrong", EARLY.values(), ids=EARLY)
def test_what_can_be_told_early_is_refused_before_any_work(call, adapting, wrong):
    code, _, err = call(*adapting(*wrong))
    assert code == 2 and err.startswith("error: ") and "running on" not in err, err


OLD_FLAGS = {
    "--transfer": ("mask", "--method"),
    "--prior": ("source", "--set prior=task|source"),
    "--prompt-steps": ("20", "--set steps=N"),
    "--prompt-lr": ("0.001", "--set lr=X"),
    "--deploy-prompt": (None, "--set deploy_prompt=true"),
    "--no-deploy-prompt": (None, "--set deploy_prompt=false"),
    "--budget": ("quick", "--effort"),
}


@pytest.mark.parametrize("wrong, hint", WRONG_VALUES, ids=[" ".join(w) for w, _ in WRONG_VALUES])
def test_a_wrong_value_is_wrong_usage_and_leaves_nothing(
    refused, adapting, tmp_path, wrong, hint, monkeypatch
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert hint in refused(*adapting(*wrong), code=2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("old", OLD_FLAGS)
def test_a_flag_of_an_earlier_version_is_refused_with_its_new_name(
    refused, adapting, tmp_path, old
):
    value, new = OLD_FLAGS[old]
    given = [old] if value is None else [old, value]
    assert refused(*adapting(*given), code=2).startswith(f"{old} is now {new}. See ")
    assert not (tmp_path / "run").exists()


def test_usage_errors_name_the_help_to_read(refused):
    assert "pass-transfer adapt --help" in refused("adapt", "--task", "digits", code=2)
    assert "pass-transfer --help" in refused("shrink", code=2)
    assert "pass-transfer zoo --help" in refused("zoo", "rm", code=2)


def test_a_batch_is_refused_where_nothing_is_measured(refused, entry):
    asked = ["inspect", "--hypernet", entry, "--no-latency", "--batch", "4"]
    assert "--batch 4" in refused(*asked, code=2)


def test_a_budget_below_the_floor_names_the_lowest(refused, adapting, tmp_path):
    message = refused(*adapting("--macs", "0.001"))
    assert message.startswith("--macs 0.001 cannot be met") and "lowest" in message
    assert "lowest budget" in refused(*adapting("--density", "0.01"))
    assert not (tmp_path / "run").exists()


def test_an_unknown_entry_is_refused_by_every_verb_that_takes_one(refused, tmp_path):
    for command in (
        ["adapt", "--task", "digits", "--out", tmp_path / "run", "--hypernet"],
        ["zoo", "show"],
        ["zoo", "verify"],
    ):
        assert "pass-transfer zoo ls" in refused(*command, "zoo/r19")
    (tmp_path / "bare").mkdir()
    assert "config.json" in refused("zoo", "show", tmp_path / "bare")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_no_task_is_refused(refused, adapting, photos, tmp_path):
    cases = {
        "missing": "not a folder",
        "empty": "class folders",
        "one": "at least two",
        "hollow": "no image",
    }
    (tmp_path / "empty").mkdir()
    photos(tmp_path / "one", ("cat",))
    (tmp_path / "hollow" / "cat").mkdir(parents=True)
    (tmp_path / "hollow" / "dog").mkdir()
    for name, hint in cases.items():
        assert hint in refused(*adapting("--task", f"folder:{tmp_path / name}"))
    assert "parquet" in refused(*adapting("--task", "cifar100", "--data-dir", tmp_path / "empty"))
    assert not (tmp_path / "run").exists()


def test_a_damaged_image_is_skipped_warned_of_and_counted(call, adapting, photos, tmp_path):
    root = photos(tmp_path / "photos", count=12)
    (root / "cat" / "3.png").write_bytes((root / "cat" / "3.png").read_bytes()[:200])
    (root / "dog" / "note.jpg").write_text("not an image")
    code, out, err = call(*adapting("--task", f"folder:{root}", "--json"))
    assert code == 0, err
    assert "cannot be decoded, left out: 2" in err
    assert "3.png" in err and "note.jpg" in err
    assert json.loads(out)["skipped_images"] == 2


def test_an_existing_run_needs_resume_or_force(refused, call, adapting, finished, tmp_path):
    arguments = adapting("--out", finished)
    before = sorted((p.name, p.stat().st_mtime_ns) for p in finished.iterdir())
    message = refused(*arguments)
    assert "--resume" in message and "--force" in message
    other_budget = refused(*arguments, "--resume", "--macs", "0.4")
    assert re.search(r"budget was .*'macs': 0.5.*, now .*'macs': 0.4", other_budget)
    assert "--force" in other_budget
    other_settings = refused(*arguments, "--resume", "--set", "steps=2")
    assert re.search(r"settings was .*'steps': 1,.*, now .*'steps': 2,", other_settings)
    other_method = refused(*adapting("--out", finished, "--method", "mask"), "--resume")
    assert "method was 'prompt', now 'mask'" in other_method
    assert "seed was 0, now 1" in refused(*arguments, "--resume", "--seed", "1")
    assert sorted((p.name, p.stat().st_mtime_ns) for p in finished.iterdir()) == before


def test_resume_of_a_finished_run_gives_its_result_again(call, adapting, finished):
    code, out, _ = call(*adapting("--out", finished), "--resume", "--json")
    assert code == 0
    assert json.loads(out) == json.loads((finished / "result.json").read_text())


@pytest.mark.parametrize("flag", [[], ["--force"], ["--resume"]], ids=["plain", "force", "resume"])
def test_a_folder_that_is_no_run_is_left_alone(refused, adapting, copied, tmp_path, flag):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    (mine / "config.json").write_text('{"model": "of another program"}')
    for folder in (mine, copied):
        before = sorted(p.name for p in folder.iterdir())
        assert "not a run folder" in refused(*adapting("--out", folder, *flag))
        assert sorted(p.name for p in folder.iterdir()) == before


def test_an_out_that_cannot_be_made_is_refused(refused, adapting, tmp_path):
    (tmp_path / "file").write_text("")
    assert "not a run folder" in refused(*adapting("--out", tmp_path / "file"))
    assert "cannot create" in refused(*adapting("--out", tmp_path / "file" / "run"))


def test_force_replaces_a_run_and_what_was_in_it(call, adapting, few_photos, tmp_path):
    run = tmp_path / "run"
    assert call(*adapting("--task", few_photos))[0] == 0
    (run / "old.txt").write_text("")
    code, _, err = call(*adapting("--task", few_photos, "--force", "--method", "mask"))
    assert code == 0, err
    assert not (run / "old.txt").exists()
    assert json.loads((run / "result.json").read_text())["method"] == "mask"


def test_eval_refuses_what_is_no_run_and_another_task(refused, finished, photos, tmp_path):
    assert "is no run of adapt" in refused("eval", tmp_path, "--task", "digits")
    assert "not a finished run" in refused("eval", tmp_path / "nothing", "--task", "digits")
    photos(tmp_path / "photos")
    assert "10" in refused("eval", finished, "--task", f"folder:{tmp_path / 'photos'}")
    assert "cifar10" in refused("eval", finished, "--task", "cifar", code=2)


OTHERS = {  # commands in a folder with photos/, and what they are refused with
    "bench --batch 0": ("bench photos --batch 0", 2, "--batch is 0; it is a whole number from 1"),
    "eval": ("eval photos --task digits", 1, "photos holds no model.json and is no run of adapt"),
    "bench": ("bench photos", 1, "photos holds no model.json and is no run of adapt; give one"),
    "export": ("export photos --out x.onnx", 1, "photos holds no model.json and is no run of"),
    "ending": ("export photos --out x.tflite", 2, "x.tflite ends with .tflite, which names no"),
    "no ending": ("export photos --out x", 2, "x has no ending, which names no format"),
    "format": ("export photos --out x.onnx --format h5", 2, "unknown format 'h5'; choose one of"),
    "search": (
        "search --backbone photos --out s",
        1,
        "make one with pass-transfer finetune",
    ),
    "finetune": ("finetune --weights w.pth --task cifar --out f", 2, "Did you mean cifar10"),
}


@pytest.mark.parametrize("command, code, hint", OTHERS.values(), ids=OTHERS)
def test_other_verbs_say_what_is_wrong_and_leave_nothing(
    call, photos, tmp_path, monkeypatch, command, code, hint
):
    photos(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    got, out, err = call(*command.split())
    assert (got, out) == (code, "") and hint in err and err.count("\n") == 1, err
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_missing_file_of_weights_is_named_once(refused, adapting, tmp_path):
    message = refused(*adapting("--backbone", tmp_path / "nope.safetensors"))
    assert message.count("nope.safetensors") == 1 and "No such file" in message
