"""What the config of a run folder may name: parts of ours and of libraries, and what the user has written."""

import math
from pathlib import Path

import pytest
import torchvision
from omegaconf import OmegaConf

from ssl_kd.compare.compute import training_macs
from ssl_kd.config import compose
from ssl_kd.errors import InputError
from ssl_kd.groups import choices
from ssl_kd.own import loading
from ssl_kd.trust import check_names, put_on_record

RUN = "runs/a"


@pytest.fixture(autouse=True)
def _alone(own_folder, monkeypatch, tmp_path_factory):
    monkeypatch.delenv("SSL_KD_TRUST", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
    monkeypatch.setattr(loading, "_ADDRESSES", {})  # what other tests have granted
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


TAUGHT = "peers={teacher: {backbone: resnet8, frozen: true}, student: resnet8}"


@pytest.mark.parametrize("group", ["method", "data", "recipe", "optim"])
def test_everything_that_comes_with_ssl_kd_may_be_named(group):
    module("mine.py", "class Data: pass")
    places = dict.fromkeys(("arrays", "shards", "hub"), "data.path=x")
    places["dataset"] = "data.train={_target_: torch.nn.Identity}"
    for name in choices(group):
        words = {
            "method": ["peers={a: resnet8, b: resnet8, student: resnet8}", "others.teacher.weights=x"],
            "data": [places.get(name, "data.root=x")],
        }.get(group, [])
        for given in (
            words,
            words[:1],
            ["peers={teacher: {backbone: resnet8, frozen: true}, student: resnet8}"],
            [],
        ):
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


def test_a_loss_of_the_users_own_may_be_named_once_it_is_on_record_for_that_run():
    module("mine.py")
    module("kit/__init__.py")
    module("kit/losses.py")
    for name in ("mine.loss", "kit.losses.loss", "kit.loss"):
        config = {"peers": {"a": {"backbone": {"_target_": name}}}}
        assert not allowed(name)
        assert put_on_record(config, RUN) == "" and allowed(name) and not allowed(name, run="runs/b")
        with pytest.raises(InputError, match="on record as yours with these options; look at it"):
            config["peers"]["a"]["backbone"]["more"] = 1
            check_names(OmegaConf.create(config), RUN)
    assert not Path("CANARY").exists()  # so far it is only known to be there


def test_a_module_that_came_with_the_run_may_not_be_named(monkeypatch):
    for path in ("runs/a/code.py", "pack/__init__.py", "pack/code.py", "loose/code.py"):
        module(path)
    for folder in ("runs", "runs/a"):
        module(f"{folder}/__init__.py")
    Path("pack/run").mkdir()
    for variable in ("", "."):  # which means a folder, but not what came with a run in it
        monkeypatch.setenv("SSL_KD_TRUST", variable)
        assert not allowed("runs.a.code.loss")
        assert allowed("loose.code.loss") == bool(variable)
    monkeypatch.chdir(RUN)
    monkeypatch.delenv("SSL_KD_TRUST")
    assert not allowed("code.loss", run=".")
    assert not Path("CANARY").exists() and not Path("../../CANARY").exists()


@pytest.mark.parametrize("path", ["loose/code.py", "loose", ".", "other, loose/code.py"])
def test_what_else_the_user_trusts_is_said_by_the_variable_as_a_path(path, monkeypatch):
    module("loose/code.py", "import os")
    module("other.py")
    config = OmegaConf.create({"terms": [{"_target_": "loose.code.loss"}]})
    with pytest.raises(InputError, match=r"loose/code.py, line 3 defines .*ssl-kd trust runs/a lets it$"):
        check_names(config, RUN)
    Path("other").mkdir()
    monkeypatch.setenv("SSL_KD_TRUST", path)
    check_names(config, RUN)
    assert not allowed("loose.more.loss") and not allowed("os.system")
    monkeypatch.setenv("SSL_KD_TRUST", "loose.code")
    with pytest.raises(InputError, match="names paths, .* as SSL_KD_TRUST=loose/code.py"):
        check_names(config, RUN)


def test_nobody_is_advised_to_trust_what_reads_writes_or_executes():
    for name in ("os.system", "torch.load", "ssl_kd.launch.spawn"):
        with pytest.raises(InputError) as error:
            check_names(OmegaConf.create({"x": {"_target_": name}}), RUN)
        assert "SSL_KD_TRUST" not in str(error.value) and "ssl-kd trust" not in str(error.value)


def test_a_comparison_that_has_to_count_a_run_s_networks_builds_nothing_else():
    peers = {"a": {"backbone": {"_target_": "os.system", "command": "touch CANARY"}}}
    data, recipe = {"mean": [0.5], "size": 8}, {}
    config = OmegaConf.create({"peers": peers, "data": data, "recipe": recipe, "epochs": 1, "batch_size": 4})
    count, problem = training_macs([(config, {"steps": 5})], RUN)
    assert math.isnan(count) and f'{RUN} names "os.system"' in problem and not Path("CANARY").exists()


def test_a_data_set_of_the_users_own_may_be_named_once_it_is_on_record():
    module("mine.py", "class Shapes: pass")
    for place in ("data", "probe.data"):
        node = {"_target_": "ssl_kd.data.dataset", "train": {"_target_": "mine.Shapes"}}
        config = {"data": node} if place == "data" else {"probe": {"data": node}}
        with pytest.raises(InputError, match=f'names "mine.Shapes" .{place}.train., which .*mine.py, line 2'):
            check_names(OmegaConf.create(config), "runs/other")
        put_on_record(config, RUN)
        check_names(OmegaConf.create(config), RUN)
    assert not Path("CANARY").exists()


def test_data_sets_of_torchvision_are_for_the_user_to_trust(monkeypatch):
    config = OmegaConf.create({"data": {"train": {"_target_": "torchvision.datasets.FakeData"}}})
    with pytest.raises(InputError, match="reads files .*; look at it, and ssl-kd trust runs/a lets it$"):
        check_names(config, RUN)
    home = Path(torchvision.datasets.__file__).parent
    monkeypatch.setenv("SSL_KD_TRUST", str(home))
    check_names(config, RUN)
    monkeypatch.delenv("SSL_KD_TRUST")
    put_on_record(config, RUN)
    check_names(config, RUN)
