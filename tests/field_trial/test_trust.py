"""What a stranger's folder gets executed: nothing, whether one stands in it, reads its runs or names it."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from ssl_kd.cli import main
from ssl_kd.config import compose
from ssl_kd.errors import InputError
from ssl_kd.own import loading, record
from ssl_kd.own.nodes import Named
from ssl_kd.registry import located
from ssl_kd.system import safe_path
from ssl_kd.trust import is_foreign
from tests.field_trial.case import Case, check, check_refusal, snapshot

ROOT = Path(__file__).parent.parent.parent
QUICK = [
    *("data=digits", "data.limit=64", "batch_size=32", "epochs=1", "probe.linear=false", "probe.knn=[1]"),
    *("probe.baselines=false", "health.every=0", "method=simclr"),
]
OWN = "peers={a: {backbone: {_target_: mine.Net, width: 4}}}"
NET = """import torch
import helpers
class Net(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.width = helpers.twice(width)
        self.convolution = torch.nn.Conv2d(1, self.width, 3)
    def forward(self, x):
        return self.convolution(x).mean((2, 3))
"""
TRAP = "open('CANARY', 'w').close()\n"
# Names that libraries look for and do not find, and names of the standard library.
SHADOWS = (
    "apex",
    "cupy",
    "difflib",
    "json",
    "multiprocessing",
    "orjson",
    "random",
    "sitecustomize",
    "triton",
)


@pytest.fixture(autouse=True)
def _nothing_granted(monkeypatch):
    monkeypatch.setattr(loading, "_ADDRESSES", {})  # by other tests


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A folder in which somebody trained with a network of their own: mine.py, helpers.py and runs/a."""
    folder = tmp_path_factory.mktemp("theirs")
    (folder / "mine.py").write_text(NET)
    (folder / "helpers.py").write_text("def twice(x):\n    return 2 * x\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        assert main(["train", *QUICK, OWN, "run=runs/a"]) == 0
    return folder


@pytest.fixture
def run(theirs):
    """That run in the current folder, of which nothing is on record here."""
    shutil.copytree(theirs / "runs/a", "runs/a")
    return Path("runs/a")


def edit(path: Path, change) -> None:
    config = yaml.safe_load(path.read_text())
    change(config)
    path.write_text(yaml.safe_dump(config))


def trap(*names: str) -> None:
    for name in names:
        path = Path(f"{name}.py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{TRAP}class Net: pass\ndef loss(logits):\n    return logits\n")


def traps() -> None:
    """All that is looked for, in the folder where the user stands."""
    trap(*SHADOWS, "ssl_kd/__init__", "ssl_kd/cli", "mine", "helpers", "evil")


def configs(group: str, name: str, text: str) -> None:
    traps()
    Path(f"configs/{group}").mkdir(parents=True)
    Path(f"configs/{group}/{name}.yaml").write_text(text)


EVIL = "peer: {heads: {z: {_target_: torch.nn.Linear, out_features: 4}}}\nterms: {e: {_target_: ssl_kd.Each, \
loss: {_target_: evil.loss}, peers: all, reads: z}}\n"
IN_CONFIGS = r"configs names \"evil.loss\" \(terms.*evil.py, line 3 defines .*ssl-kd trust configs lets it"

CASES = [
    Case("pretext-in-configs", "configs/ of a stranger's folder names a module", ["show", "pretext=evil"],
         IN_CONFIGS, lambda: configs("pretext", "evil", EVIL)),
    Case("pretext-in-configs-train", "the same, in a training", ["train", *QUICK, "pretext=evil"], IN_CONFIGS,
         lambda: configs("pretext", "evil", EVIL)),
    Case("ours-shadowed", "configs/ has a pretext of our name",
         ["doctor", "method=simclr", "peers=[resnet8]"], IN_CONFIGS,
         lambda: configs("pretext", "simclr", EVIL)),
    Case("recipe-in-configs", "configs/ has a recipe", ["train", *QUICK, "recipe=own2"],
         r'names "evil.Net" \(recipe\)', lambda: configs("recipe", "own2", "_target_: evil.Net\n")),
    Case("configs-of-library", "configs/ names what a library executes", ["show", "recipe=own2"],
         r'names "torch.hub.load" \(recipe\), which nothing',
         lambda: configs("recipe", "own2", "_target_: torch.hub.load\nrepo_or_dir: x\n")),
    Case("configs-weights", "configs/ lets torchvision load weights", ["show", "recipe=own2"],
         r'"torchvision.models.resnet18" \(recipe\), with weights=DEFAULT, which reads files or an address',
         lambda: configs("recipe", "own2", "_target_: torchvision.models.resnet18\nweights: DEFAULT\n")),
    Case("trust-nothing", "trust of no run", ["trust", "home"], "nor an export, nor a folder of configs"),
    Case("trust-no-folder", "trust of nothing", ["trust"], "takes one folder, as in ssl-kd trust runs/a"),
    Case("trust-option", "an unknown option", ["trust", "x", "force=true"], 'no.* option of trust'),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case, capsys):
    check(case, capsys)
    assert not Path("CANARY").exists()


FOREIGN = [
    ("torchvision.models.resnet18", {"weights": "DEFAULT"}),
    ("torchvision.models.resnet18", {"weights": "IMAGENET1K_V1", "num_classes": 3}),
    ("torchvision.models.get_model", {"name": "resnet18", "weights": "DEFAULT"}),
    ("torchvision.models.get_model", {"name": "fasterrcnn_resnet50_fpn"}),
    ("torchvision.models.detection.fasterrcnn_resnet50_fpn", {}),
    ("torchvision.models.segmentation.fcn_resnet50", {"weights": None}),
    ("torchvision.datasets.CIFAR10", {"root": "/", "download": True}),
    ("timm.models.VisionTransformer", {"pretrained_cfg": {"url": "http://x/y"}}),
    ("timm.models.VisionTransformer", {"_args_": [True]}),
    ("torch.nn.Linear", {"in_features": 1, "out_features": "/etc/passwd"}),
    ("torch.nn.Linear", {"more": "http://example.com"}),
    ("ssl_kd.__main__.main", {}),
    ("ssl_kd.data.cifar10", {"root": "/anywhere"}),  # as a network
    ("ssl_kd.data.files.first_line", {}),
    ("ssl_kd.own.record.write", {}),
]
HARMLESS = [
    ("torchvision.models.resnet18", {"weights": None, "num_classes": 3}),
    ("torchvision.models.get_model", {"name": "resnet18"}),
    ("torchvision.models.segmentation.fcn_resnet50", {"weights": None, "weights_backbone": None}),
    ("timm.models.VisionTransformer", {"drop_path_rate": 0.1}),
    ("torch.nn.Upsample", {"scale_factor": 2, "mode": "bilinear"}),
    ("ssl_kd.data.recipes.Recipe", {}),
]


@pytest.mark.parametrize("name, options", FOREIGN)
def test_what_a_constructor_does_with_its_options_counts_not_whose_it_is(name, options):
    assert is_foreign(Named("peers.a.backbone", name, {"_target_": name, **options}))


@pytest.mark.parametrize("name, options", HARMLESS)
def test_a_constructor_that_reads_nothing_is_free(name, options):
    assert not is_foreign(Named("peers.a.backbone", name, {"_target_": name, **options}))


@pytest.mark.parametrize("words", [["knn"], ["export", "peer=a"], ["report"], ["eval", "probes=[knn]"]])
def test_a_run_that_is_not_on_record_is_refused_with_file_and_line(words, run, capsys):
    traps()
    before = snapshot()
    says = r'runs/a names "mine.Net" .*mine.py, line 2 defines .*on record.*ssl-kd trust runs/a'
    check_refusal(main([words[0], "run=runs/a", *words[1:]]), capsys.readouterr().err, says)
    assert snapshot() == before and not Path("CANARY").exists()


def test_trust_shows_first_what_it_will_run_and_a_change_of_one_file_is_named(run, theirs, capsys):
    for name in ("mine.py", "helpers.py"):
        shutil.copy(theirs / name, name)
    assert main(["trust", "runs/a"]) == 0
    said = capsys.readouterr().out
    here = Path.cwd()
    assert f"mine.Net(width=4), {here}/mine.py, line 3" in said and f"with {here}/helpers.py" in said
    state = Path("home/.local/state/ssl_kd/trusted.json")
    assert (
        str(state) in said and state.stat().st_mode & 0o777 == 0o600 and not list(state.parent.glob("*.part"))
    )
    assert main(["knn", "run=runs/a"]) == 0
    Path("helpers.py").write_text("def twice(x):\n    return x + x\n")
    capsys.readouterr()
    says = rf"{here}/helpers.py has changed since that was trusted; .*ssl-kd trust runs/a"
    check_refusal(main(["knn", "run=runs/a"]), capsys.readouterr().err, says)


def test_ones_own_run_is_scored_with_ones_own_module_from_a_strangers_folder(theirs, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(theirs / "state"))
    traps()
    assert main(["knn", f"run={theirs}/runs/a"]) == 0
    assert not Path("CANARY").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["peers"]["a"]["backbone"].update(width=8),
        lambda config: config["peers"]["a"]["backbone"].update(_target_="evil.Net"),
        lambda config: config["recipe"].update(_target_="evil.Net"),
    ],
    ids=["options", "address", "another place"],
)
def test_a_run_folder_that_was_replaced_at_its_place_is_not_on_record(change, run, theirs, capsys):
    for name in ("mine.py", "helpers.py"):
        shutil.copy(theirs / name, name)
    assert main(["trust", "runs/a"]) == 0
    trap("evil")
    edit(run / "config.yaml", change)
    capsys.readouterr()
    check_refusal(
        main(["knn", "run=runs/a"]), capsys.readouterr().err, "on record as yours.*ssl-kd trust runs/a"
    )
    assert not Path("CANARY").exists()


def test_nothing_of_the_standard_library_can_be_trusted(run, capsys):
    edit(run / "config.yaml", lambda config: config["peers"]["a"].update(backbone={"_target_": "os.system"}))
    says = '"os.system" .peers.a.backbone. is nothing that a run is built of: take it out'
    check_refusal(main(["trust", "runs/a"]), capsys.readouterr().err, says)
    assert not Path("home/.local").exists()


@pytest.mark.parametrize("state", ["a file", "nobody writes"])
def test_a_state_folder_that_cannot_be_written_costs_a_sentence_and_not_the_training(
    state, theirs, monkeypatch, capsys
):
    for name in ("mine.py", "helpers.py"):
        shutil.copy(theirs / name, name)
    place = Path("state").absolute()
    monkeypatch.setenv("XDG_STATE_HOME", str(place) if state == "a file" else "/proc/none")
    place.write_text("")
    assert main(["train", *QUICK, OWN, "run=runs/b"]) == 0
    said = capsys.readouterr().out
    assert said.count("could not be put on record") == 1 and "ssl-kd trust runs/b" in said


def test_a_record_that_others_may_write_counts_for_nothing(run, theirs, capsys):
    for name in ("mine.py", "helpers.py"):
        shutil.copy(theirs / name, name)
    assert main(["trust", "runs/a"]) == 0
    record.state_file().chmod(0o666)
    capsys.readouterr()
    check_refusal(main(["knn", "run=runs/a"]), capsys.readouterr().err, "others may write it.*take it away")
    record.state_file().write_text("{")
    record.state_file().chmod(0o600)
    check_refusal(main(["knn", "run=runs/a"]), capsys.readouterr().err, "trusted.json says what you trust")


def test_of_several_who_write_at_once_no_entry_is_lost():
    """Each opens the file anew, so that writers of one process exclude each other as those of two do."""
    names = [[f"{writer}-{i}" for i in range(6)] for writer in range(4)]

    def write(some: list[str]) -> None:
        for name in some:
            record.write(name, {"nodes": [name], "names": {}, "files": {}})

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(write, names))
    found = record.places()
    assert {Path(place).name for place in found} == {name for some in names for name in some}
    assert [path.name for path in record.state_file().parent.iterdir() if path.suffix == ".part"] == []


def test_records_of_several_runs_stand_beside_each_other_and_a_relative_variable_counts_for_nothing(
    monkeypatch,
):
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    for name in ("a", "b"):
        record.write(name, {"nodes": [name], "names": {}, "files": {}})
    assert (
        record.of("a")["nodes"] == ["a"]
        and record.of("b/export")["nodes"] == ["b"]
        and not Path("state").exists()
    )


def test_what_configs_name_runs_once_it_is_on_record_and_not_after_a_change(capsys):
    configs("pretext", "evil", EVIL)
    assert main(["trust", "configs"]) == 0 and "evil.loss(), " in capsys.readouterr().out
    words = ["show", "pretext=evil", "method=simclr", "peers=[resnet8]"]
    assert main(words) == 0
    Path("configs/pretext/other.yaml").write_text(EVIL)
    capsys.readouterr()
    says = "other.yaml is not what it was when that was trusted.*ssl-kd trust configs"
    check_refusal(main(words), capsys.readouterr().err, says)


def test_a_file_of_options_in_a_run_folder_is_not_the_users_word(run, capsys):
    trap("evil")
    (run / "my.yaml").write_text("recipe: {_target_: evil.Net}\n")
    says = r'runs/a names "evil.Net" \(recipe\).*ssl-kd trust .*runs/a'
    check_refusal(main(["show", "config=runs/a/my.yaml"]), capsys.readouterr().err, says)
    assert not Path("CANARY").exists()


def test_bytecode_beside_a_module_is_neither_taken_nor_written(theirs):
    import py_compile

    trap("mine")
    py_compile.compile("mine.py")  # of the same length and time as what then stands there
    kept = os.stat("mine.py")
    good = NET.replace("import helpers\n", "").replace("helpers.twice(width)", "width")
    Path("mine.py").write_text(good)
    os.utime("mine.py", ns=(kept.st_atime_ns, kept.st_mtime_ns))
    before = snapshot()
    compose([*QUICK, OWN])
    located("mine.Net")
    assert snapshot() == before and not Path("CANARY").exists()


def test_a_module_sees_the_files_beside_it_and_libraries_see_neither():
    trap("json")
    Path("kit").mkdir()
    Path("kit/__init__.py").write_text("from .deep import loss\n")
    Path("kit/deep.py").write_text(
        "import json, kit.more\ndef loss(x):\n    return kit.more.by(x), json.dumps(x)\n"
    )
    Path("kit/more.py").write_text("from beside import by\n")
    Path("beside.py").write_text("def by(x):\n    return x + 1\n")
    compose([*QUICK, "peers=[resnet8]", "terms.nt_xent.loss={_target_: kit.deep.loss}"])
    loss = located("kit.deep.loss")
    assert loss(1) == (2, "1") and not Path("CANARY").exists()
    assert not {"kit", "kit.deep", "kit.more", "beside"} & set(sys.modules)


def test_two_modules_of_one_name_do_not_meet():
    said = []
    for name in ("one", "two"):
        Path(name).mkdir()
        Path(name, "mine.py").write_text(f"def loss(x):\n    return '{name}'\n")
        os.chdir(name)
        compose([*QUICK, "peers=[resnet8]", "terms.nt_xent.loss={_target_: mine.loss}"])
        said.append(located("mine.loss"))
        os.chdir("..")
    assert [loss(0) for loss in said] == ["one", "two"]


def test_a_process_that_is_no_fork_gets_the_users_classes():
    Path("mine.py").write_text("class Shapes:\n    size = 3\n")
    compose([*QUICK, "peers=[resnet8]", "terms.nt_xent.loss={_target_: mine.Shapes}"])
    made = located("mine.Shapes")()
    Path("sent").write_bytes(pickle.dumps((loading.Granted(), made)))
    Path("mine.py").write_text(TRAP)
    code = "import pickle; print(pickle.load(open('sent', 'rb'))[1].size)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False,
                          env=safe_path.environment(OMP_NUM_THREADS="1"))  # fmt: skip
    assert done.stdout == "3\n", done.stderr


@pytest.mark.parametrize("said", ["", ":", ".", "lib:/absolute", ":/absolute"])
def test_the_current_folder_is_on_no_path(said, monkeypatch):
    here = str(Path.cwd())
    monkeypatch.setenv("PYTHONPATH", said)
    monkeypatch.setattr(sys, "path", ["", here, f"{here}/lib", "/absolute", *sys.path])
    before = list(sys.path)
    with safe_path.away_from_current_folder():
        assert not {"", here} & set(sys.path) and "/absolute" in sys.path
        assert (f"{here}/lib" in sys.path) == ("lib" not in said)
        assert os.environ["PYTHONSAFEPATH"] == "1" and os.environ["PYTHONPATH"] in ("", "/absolute")
        paths = safe_path.environment()["PYTHONPATH"].split(os.pathsep)
        assert "-P" in safe_path.python("ssl_kd", []) and all(map(os.path.isabs, paths)) and here not in paths
    assert sys.path == before and os.environ["PYTHONPATH"] == said


@pytest.mark.parametrize(
    "words",
    [
        [Path(sys.executable).parent / "ssl-kd", "show"],
        [ROOT / "eval/report.py", "run=gone"],
        [ROOT / "ssl_kd/train.py", "epochs=none"],
        ["-P", "-m", "ssl_kd", "show"],
    ],
    ids=["ssl-kd", "eval", "train.py", "-m"],
)
def test_no_entry_point_imports_from_where_the_user_stands(words):
    traps()
    command = [
        *([sys.executable] if words[0] != Path(sys.executable).parent / "ssl-kd" else []),
        *map(str, words),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 2) and "Traceback" not in done.stderr, done.stderr
    assert not Path("CANARY").exists()


def test_a_study_and_its_processes_import_nothing_from_where_the_user_stands():
    traps()
    base = "peers={a: {backbone: {name: resnet8, base: 4}}}"
    Path("study.yaml").write_text(json.dumps({"groups": {"solo": [*QUICK, base, "processes=2"]}}))
    assert main(["study", "study.yaml", "out=runs/s"]) == 0, Path("runs/s/logs/solo-0.log").read_text()
    assert not Path("CANARY").exists()


def test_a_module_that_two_folders_have_is_not_taken_for_that_of_an_earlier_run(theirs, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(theirs / "state"))
    Path("mine.py").write_text(NET.replace("import helpers\n", "").replace("helpers.twice(width)", "width"))
    peers = f"peers={{a: {{backbone: {{_target_: mine.Net, width: 4}}}}, b: {{weights: {theirs}/runs/a}}}}"
    with pytest.raises(InputError, match='"mine.Net" is one thing in .* and another in the run'):
        compose(["data=digits", "method=dogo", peers])
