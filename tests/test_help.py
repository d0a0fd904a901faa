"""Help and completion: from the files that the commands themselves read, and at once."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ssl_kd.assign import PEER_KEYS
from ssl_kd.cli import COMMANDS, PROBES, main
from ssl_kd.commands import catalogue, completion
from ssl_kd.commands.completion import complete
from ssl_kd.commands.documented import options_in
from ssl_kd.commands.names import backbones
from ssl_kd.commands.pages import overview, page
from ssl_kd.config import compose
from ssl_kd.errors import InputError
from ssl_kd.groups import GROUPS, choices, config_folder

HEAVY = "{'torch', 'hydra', 'omegaconf', 'rich', 'timm', 'numpy'}"


def cpu() -> float:
    """Seconds that child processes have computed: the time an answer takes where nobody else is at work."""
    spent = os.times()
    return spent.children_user + spent.children_system


def leaves(node, prefix: str = "") -> set[str]:
    if not isinstance(node, dict) or not node:
        return {prefix.rstrip(".")}
    return set().union(*(leaves(value, f"{prefix}{key}.") for key, value in node.items()))


def test_every_option_of_the_config_is_on_the_page_with_its_default():
    plain = OmegaConf.to_container(OmegaConf.load(config_folder() / "config.yaml"))
    del plain["defaults"]
    found = {option.key: option for option in options_in(config_folder() / "config.yaml")}
    assert leaves(plain) <= {*found}
    text = page("train")
    for key in ("epochs=200", "probe.temperature=0.07", "health.on_hurt=warn", "tracker=tensorboard"):
        assert key in text
    undescribed = [o.key for o in found.values() if o.default and not o.meaning]
    assert undescribed == ["presets", "classes", "steps"]  # which the method and the data fill in


@pytest.mark.parametrize("group", GROUPS)
def test_options_of_every_choice_are_read_from_its_file(group):
    for name in choices(group):
        text = page("train", [f"{group}={name}"])
        assert f"{group}={name}" in text
    assert "data.skip_broken=false" in page("train", ["data=folder"])
    assert "recipe.solarize=[0.0, 0.2]" in page("train", ["recipe=byol"])  # and what it builds on
    assert "recipe.flip=0.5" in page("train", ["recipe=byol"])


def test_examples_come_first_and_every_example_is_understood(tmp_path, monkeypatch):
    (tmp_path / "my.yaml").write_text("epochs: 3\n")
    monkeypatch.chdir(tmp_path)
    for name, found in catalogue.COMMANDS.items():
        lines = page(name).splitlines()
        assert lines[0].startswith(f"ssl-kd {name}") and lines[2].startswith(f"  ssl-kd {name}")
        for words, _ in found.examples:
            said = words.split()
            assert said[0] == name
            if found.trains and "--help" not in said:
                compose([word for word in said[1:] if not word.startswith("measure=")])
    assert overview().splitlines()[2].startswith("  ssl-kd train")


def test_the_page_of_a_probe_says_what_its_function_takes():
    import inspect

    from ssl_kd.probing import PROBES as functions

    assert {*PROBES} == {*functions}
    for name, function in functions.items():
        takes = {key for key in inspect.signature(function).parameters if key not in ("finished", "data")}
        assert takes <= {option.key for option in catalogue.command(name).options}
    assert "labels=null" in page("finetune") and "share (0.1) or number of labels" in page("finetune")
    assert "kinds=[noise, blur, jpeg, contrast]" in page("robustness")


def test_what_the_catalogue_says_of_other_commands_is_what_they_take():
    from ssl_kd.commands import evaluate
    from ssl_kd.compare import command as compare
    from ssl_kd.export import OPTIONS as exported
    from ssl_kd.export.formats import FORMATS

    def said(name: str) -> set[str]:
        return {option.key for option in catalogue.command(name).options}

    assert said("compare") == {*compare.OPTIONS} and said("eval") == {*evaluate.OPTIONS, "online"}
    assert said("export") == {*exported, "online"} and {*catalogue.VALUES["export.format"]} == {*FORMATS}
    for name in ("study", "report"):
        with pytest.raises(InputError) as error:
            _refused(name)
        assert all(key in str(error.value) for key in said(name) - {"online"})  # taken out for all commands


def _refused(name: str) -> None:
    from ssl_kd.report import main as report
    from ssl_kd.study import main as study

    {"study": study, "report": report}[name](["xxxxxxxxx=1"])


@pytest.mark.parametrize(
    "words", [["--help"], ["help", "train"], ["train", "--help"], ["eval", "-h"], ["doctor", "--help"],
              ["completion", "bash"], ["__complete", "bash", "ssl-kd train peers=[res"]]
)  # fmt: skip
def test_help_and_completion_import_nothing_heavy_and_answer_at_once(words, tmp_path):
    code = (
        f"import sys; from ssl_kd.cli import main; code = main({words!r});"
        f"sys.exit(code or ', '.join({HEAVY} & set(sys.modules)) or 0)"
    )
    took = []
    for _ in range(4):
        began = cpu()
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
        )
        took.append(cpu() - began)
    assert done.returncode == 0 and done.stdout and min(took) < (0.3 if words[0][0] == "_" else 0.5)


@pytest.mark.parametrize(
    ("line", "among"),
    [
        ("ssl-kd tr", ["train ", "transfer "]),
        ("ssl-kd train ep", ["epochs="]),
        ("ssl-kd train method=dml", ["method=dml "]),
        ("ssl-kd train epochs=3 data=fo", ["data=folder "]),
        ("ssl-kd train peers=[resnet20,wr", ["peers=[resnet20,wrn-16-2"]),
        ("ssl-kd train peers=[mobilenetv3_small_10", ["peers=[mobilenetv3_small_100"]),
        ("ssl-kd train prob", ["probe."]),
        ("ssl-kd train probe.sel", ["probe.select="]),
        ("ssl-kd train probe.select=u", ["probe.select=uniformity "]),
        ("ssl-kd train compile=", ["compile=true ", "compile=false "]),
        ("ssl-kd train data=folder data.ski", ["data.skip_broken="]),
        ("ssl-kd train method=ssl_kd parts=[peers,f", ["parts=[peers,fusion"]),
        ("ssl-kd train method=simclr preset=r", ["preset=reference "]),
        ("ssl-kd train tracker=[tensorboard,w", ["tracker=[tensorboard,wandb"]),
        ("ssl-kd train peers=[resnet8,resnet8] peers.resnet8_2.fro", ["peers.resnet8_2.frozen="]),
        ("ssl-kd timing meas", ["measure="]),
        ("ssl-kd eval probes=[knn,few", ["probes=[knn,few_labels"]),
        ("ssl-kd eval finetune.lab", ["finetune.labels="]),
        ("ssl-kd knn run=runs/b", ["run=runs/b1 ", "run=runs/b2/"]),
        ("ssl-kd compare runs/b1", ["runs/b1 "]),
        ("ssl-kd train config=m", ["config=my.yaml "]),
        ("ssl-kd completion z", ["zsh "]),
        ("ssl-kd nonsense ", []),
    ],
)
def test_what_the_tab_key_offers(line, among, tmp_path, monkeypatch):
    for folder in ("runs/b1", "runs/b2"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "runs/b1/config.yaml").touch()
    (tmp_path / "my.yaml").touch()
    monkeypatch.chdir(tmp_path)
    assert complete(line) == among or (len(complete(line)) > 2 and {*among} <= {*complete(line)})


def test_what_is_offered_is_accepted():
    known = {option.key for option in completion._options("train", ["method=dogo"])}
    assert {
        "epochs",
        "data.size",
        "terms.kl.loss.temperature",
        "recipe.flip",
        "optim.rate.peak",
    } <= known
    assert {*completion._PEER} <= {*PEER_KEYS}
    from ssl_kd.backbones import names

    assert {*names()} <= {*backbones()}
    for key in ("tracker", "device", "precision", "probe.select", "health.on_collapse", "health.on_hurt"):
        for value in catalogue.VALUES[key]:
            compose([f"{key}={value}"])


def in_bash(line: str, folder: Path) -> list[str]:
    """What bash itself makes of a line and the Tab key, with the script that the command prints."""
    code = (
        f"source <({sys.executable} -m ssl_kd completion bash)\n"
        "complete -p ssl-kd >/dev/null || exit 3\n"
        f"COMP_LINE={line!r}; COMP_POINT=${{#COMP_LINE}}\n"
        'read -ra COMP_WORDS <<< "$COMP_LINE"\n'
        "_ssl_kd ssl-kd\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", code], capture_output=True, text=True, cwd=folder, env={**os.environ, "PATH": path},
        check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


COMMAND = Path(sys.executable).parent / "ssl-kd"


@pytest.mark.skipif(shutil.which("bash") is None or not COMMAND.exists(), reason="needs bash and the command")
def test_bash_completes_with_the_script(tmp_path):
    assert in_bash("ssl-kd tra", tmp_path) == ["train ", "transfer "]
    assert in_bash("ssl-kd train method=dm", tmp_path) == ["dml "]  # readline's word begins behind the "="
    assert in_bash("ssl-kd train epo", tmp_path) == ["epochs="]
    assert in_bash("ssl-kd train peers=[resnet20,resnet5", tmp_path) == [
        "[resnet20,resnet56",
        "[resnet20,resnet50",
    ]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_scripts_of_other_shells_are_understood_by_them(shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not here")
    subprocess.run([shell, "-n"], input=completion.script([shell]), text=True, check=True)


def test_scripts_ask_the_hidden_command_and_unknown_shells_are_refused(capsys):
    for shell in completion.SHELLS:
        assert f"__complete {shell}" in completion.script([shell])
    assert main(["completion", "bsh"]) == 2
    assert 'did you mean "bash"?' in capsys.readouterr().err
    assert main(["completion"]) == 2
    assert {*COMMANDS, *PROBES} == {*catalogue.COMMANDS, *catalogue.PROBES}
