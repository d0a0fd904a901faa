"""What the config of a run folder may name: parts of ours and of libraries, and what the user has written."""

import math
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ssl_kd.compare.compute import training_macs
from ssl_kd.config import compose
from ssl_kd.errors import InputError
from ssl_kd.groups import choices
from ssl_kd.trust import check_names

RUN = "runs/a"


@pytest.fixture(autouse=True)
def _alone(own_folder, monkeypatch):
    monkeypatch.delenv("SSL_KD_TRUST", raising=False)
    monkeypatch.syspath_prepend(Path.cwd())
    Path(RUN).mkdir(parents=True)


def allowed(name: str, run: str = RUN) -> bool:
    try:
        check_names(OmegaConf.create({"peers": {"a": {"backbone": {"_target_": name}}}}), run)
    except InputError as error:
        assert f'names "{name}" (peers.a.backbone)' in str(error) and "\n" not in str(error)
        return False
    return True


def module(path: str, content: str = "") -> None:
    """A module that says so when it is imported, with a loss."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    said = "open('CANARY', 'w').close()"
    Path(path).write_text(f"{said}\n{content}\ndef loss(logits):\n    return logits.mean()\n")


@pytest.mark.parametrize("group", ["method", "data", "recipe", "optim"])
def test_everything_that_comes_with_ssl_kd_may_be_named(group):
    module("mine.py", "class Data: pass")
    places = dict.fromkeys(("arrays", "shards", "hub"), "data.path=x")
    places["dataset"] = "data.train={_target_: mine.Data}"
    for name in choices(group):
        words = {
            "method": ["peers={a: resnet8, b: resnet8, student: resnet8}", "others.teacher.weights=x"],
            "data": [places.get(name, "data.root=x")],
        }.get(group, [])
        for given in (words, words[:1], []):
            try:
                config = compose([f"{group}={name}", *given])
            except InputError:
                continue
            check_names(config, RUN)
            break
        else:
            pytest.fail(f"{group}={name} could not be composed")


@pytest.mark.parametrize(
    "name",
    [
        "ssl_kd.losses.nt_xent",
        "ssl_kd.losses.contrastive.nt_xent",
        "ssl_kd.Each",
        "torch.nn.Linear",
        "torch.nn.functional.cross_entropy",
        "torch.optim.AdamW",
        "torchvision.models.resnet18",
        "torchvision.models.ResNet",
        "timm.layers.Mlp",
    ],
)
def test_networks_losses_and_optimisers_of_libraries_may_be_named(name):
    assert allowed(name)


def test_optional_libraries_are_libraries_too():
    for package, name in (
        ("lightly", "lightly.loss.NTXentLoss"),
        ("kornia", "kornia.augmentation.RandomJPEG"),
    ):
        pytest.importorskip(package)
        assert allowed(name)


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "builtins.exec",
        "subprocess.run",
        "shutil.rmtree",
        "pickle.loads",
        "importlib.import_module",
        "hydra.utils.call",
        "omegaconf.OmegaConf.load",
        "numpy.load",
        "yaml.unsafe_load",
        "torch.load",
        "torch.save",
        "torch.os.system",
        "torch.hub.load",
        "torch.nn.modules.module.torch.load",
        "torch.utils.cpp_extension.load",
        "torch.fx.graph_module.reduce_graph_module",
        "torch.nn.Module.register_forward_hook",
        "torchvision.datasets.CIFAR10",
        "timm.create_model",
        "timm.models.load_checkpoint",
        "ssl_kd.cli.main",
        "ssl_kd.export.export",
        "ssl_kd.launch.spawn",
        "ssl_kd.registry.make",
        "ssl_kd.weights.start_from",
        "ssl_kd.run.Run",
        "ssl_kd.run.subprocess.run",
        "ssl_kd.data.files.os.system",
        "",
        "loss",
        "..loss",
        "a b.c",
    ],
)
def test_what_reads_writes_or_executes_may_not(name):
    assert not allowed(name)


def test_a_loss_that_the_user_has_written_in_the_current_folder_may_be_named():
    module("mine.py")
    module("kit/__init__.py")
    module("kit/losses.py")
    assert allowed("mine.loss") and allowed("kit.losses.loss") and allowed("kit.loss")
    assert not Path("CANARY").exists()  # so far it is only known to be there


def test_a_module_of_the_users_lends_nothing_that_it_only_imports():
    module("mine.py", "import os\nfrom os import system\nrun = system")
    assert not any(map(allowed, ("mine.os.system", "mine.system", "mine.run", "mine.gone", "mine.loss.x")))


def test_a_module_that_came_with_the_run_may_not_be_named(monkeypatch):
    for path in ("runs/a/code.py", "pack/__init__.py", "pack/code.py", "loose/code.py"):
        module(path)
    for folder in ("runs", "runs/a"):
        module(f"{folder}/__init__.py")
    Path("pack/run").mkdir()
    assert not allowed("runs.a.code.loss")
    assert not allowed("pack.code.loss", run="pack/run") and allowed("pack.code.loss")
    assert not allowed("loose.code.loss")  # any folder of data would be a package, if this one were
    monkeypatch.chdir(RUN)
    assert not allowed("code.loss", run=".")
    assert not Path("CANARY").exists() and not Path("../../CANARY").exists()


def test_what_else_the_user_trusts_is_said_by_a_variable(monkeypatch):
    module("loose/code.py", "import os")
    with pytest.raises(InputError, match="if it is yours, say so by SSL_KD_TRUST=loose.code$"):
        check_names(OmegaConf.create({"terms": [{"_target_": "loose.code.loss"}]}), RUN)
    monkeypatch.setenv("SSL_KD_TRUST", "other, loose.code")
    assert (
        allowed("loose.code.loss") and not allowed("loose.code.os.system") and not allowed("loose.more.loss")
    )


def test_nobody_is_advised_to_trust_the_standard_library_or_the_run_folder():
    module("runs/a/code.py")
    for name in ("os.system", "torch.load", "runs.a.code.loss"):
        with pytest.raises(InputError) as error:
            check_names(OmegaConf.create({"x": {"_target_": name}}), RUN)
        assert "SSL_KD_TRUST" not in str(error.value)


def test_a_comparison_that_has_to_count_a_run_s_networks_builds_nothing_else():
    peers = {"a": {"backbone": {"_target_": "os.system", "command": "touch CANARY"}}}
    data, recipe = {"mean": [0.5], "size": 8}, {}
    config = OmegaConf.create({"peers": peers, "data": data, "recipe": recipe, "epochs": 1, "batch_size": 4})
    count, problem = training_macs([(config, {"steps": 5})], RUN)
    assert math.isnan(count) and f'{RUN} names "os.system"' in problem and not Path("CANARY").exists()


def test_a_data_set_of_the_users_own_may_be_named_from_here_and_not_from_the_run_folder():
    module("mine.py", "class Shapes: pass")
    module(f"{RUN}/theirs.py", "class Shapes: pass")
    for name, fine in (("mine.Shapes", True), ("theirs.Shapes", False), ("runs.a.theirs.Shapes", False)):
        node = {"_target_": "ssl_kd.data.dataset", "train": {"_target_": name}}
        for config in ({"data": node}, {"probe": {"data": node}}):
            if fine:
                check_names(OmegaConf.create(config), RUN)
                continue
            with pytest.raises(InputError, match=f'names "{name}"'):
                check_names(OmegaConf.create(config), RUN)
    assert not Path("CANARY").exists()


def test_data_sets_of_torchvision_are_for_the_user_to_trust(monkeypatch):
    config = OmegaConf.create({"data": {"train": {"_target_": "torchvision.datasets.FakeData"}}})
    with pytest.raises(InputError, match="if it is yours, say so by SSL_KD_TRUST=torchvision.datasets$"):
        check_names(config, RUN)
    monkeypatch.setenv("SSL_KD_TRUST", "torchvision.datasets")
    check_names(config, RUN)
