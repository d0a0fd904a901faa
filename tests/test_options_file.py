"""`config=my.yaml`: a file of options means what the same words mean, and words go before it."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ssl_kd.cli import main
from ssl_kd.config import compose
from ssl_kd.errors import InputError
from ssl_kd.identity import differences
from ssl_kd.study import read as read_study

FILE = """
method: dogo
data: cifar10
data.limit: 500
peers: {small: resnet8, large: resnet20}
peers.large.lr_scale: 0.5
epochs: 7
optim: sgd
optim.rate.peak: 0.03
probe:
  every: 3
  knn: [5]
terms.kl.weight: {"small<-large": 1.0, "large<-small": 0.1}
~terms.nt_xent:
"""
WORDS = [
    "method=dogo", "data=cifar10", "data.limit=500", "peers={small: resnet8, large: resnet20}",
    "peers.large.lr_scale=0.5", "epochs=7", "optim=sgd", "optim.rate.peak=0.03", "probe.every=3",
    "probe.knn=[5]",
    'terms.kl.weight={"small<-large": 1.0, "large<-small": 0.1}', "~terms.nt_xent",
]  # fmt: skip


@pytest.fixture
def my(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text(FILE)
    return tmp_path / "my.yaml"


def test_a_file_means_what_its_lines_mean_as_words(my):
    assert compose(["config=my.yaml"]) == compose(WORDS)


def test_words_go_before_the_file_wherever_they_stand(my):
    for words in (["config=my.yaml", "epochs=3"], ["epochs=3", "config=my.yaml"]):
        config = compose(words)
        assert config.epochs == 3 and config.probe.every == 3
    Path("more.yaml").write_text("epochs: 9\n")
    assert compose(["config=my.yaml", "config=more.yaml"]).epochs == 9
    assert list(compose(["config=my.yaml", "peers=[resnet8]", "method=simclr"]).peers) == ["resnet8"]
    assert compose(["config=my.yaml", "data.limit=null"]).data.limit is None


def test_what_a_file_says_of_its_choice_goes_with_it(my):
    assert compose(["config=my.yaml"]).data.limit == 500
    assert compose(["config=my.yaml", "data=cifar100"]).data.limit is None
    assert compose(["config=my.yaml", "optim=adamw"]).optim.rate.peak == compose([]).optim.rate.peak
    assert compose(["config=my.yaml", "data=cifar10"]).data.limit == 500
    Path("images.yaml").write_text("recipe.flip: 0.0\n")  # of whatever recipe
    assert compose(["config=images.yaml", "recipe=byol", "data=cifar10"]).recipe.flip == 0.0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("epoch: 3", 'my.yaml: "epoch" is not an option; did you mean "epochs"?'),
        ("method: simcrl", 'my.yaml: there is no method "simcrl"; did you mean "simclr"?'),
        ("epochs: many", "my.yaml: epochs must be a whole number"),
        ("probe: {evry: 3}", 'my.yaml: "probe.evry" is not an option; did you mean "probe.every"?'),
        ("data: {name: folder}", "which data is said by a line data: NAME"),
        ("config: other.yaml", '"config" cannot be in such a file'),
        ("steps: 3\nclasses: 2", "is the resolved config of a run"),
        ("- a\n- b", "my.yaml holds no options"),
        ("a: [", "my.yaml cannot be read"),
    ],
)
def test_a_wrong_file_is_one_sentence_that_names_it(text, says, my):
    my.write_text(text)
    with pytest.raises(InputError) as error:
        compose(["config=my.yaml"])
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_not_there_and_a_mistyped_word_are_refused(my):
    with pytest.raises(InputError, match="there is no such file; ssl-kd init writes one"):
        compose(["config=mine.yaml"])
    with pytest.raises(InputError, match='"confg" is not an option'):
        compose(["confg=my.yaml"])


def test_a_run_of_a_file_keeps_the_whole_config_and_is_continued_by_it(own_folder, capsys):
    Path("my.yaml").write_text(
        "method: simclr\npeers: {a: {backbone: {name: resnet8, base: 4}}}\ndata.limit: 256\nbatch_size: 128\n"
        "epochs: 1\nrun: runs/a\nprobe: {linear: false, baselines: false, knn: [1]}\ntracker: none\n"
    )
    assert main(["train", "config=my.yaml"]) == 0
    kept = OmegaConf.load("runs/a/config.yaml")
    assert kept.epochs == 1 and "config" not in kept and kept.recipe.flip == 0.0
    assert json.loads(Path("runs/a/environment.json").read_text())[-1]["command"]
    assert main(["train", "config=my.yaml", "log_every=7"]) == 0
    assert "finished before" in capsys.readouterr().out
    with Path("my.yaml").open("a") as file:
        file.write("seed: 4\n")
    assert main(["train", "config=my.yaml"]) == 2
    assert "seed: 0 there, 4 here" in capsys.readouterr().err


def test_a_study_takes_files_in_its_groups(my):
    Path("study.yaml").write_text("common: config=my.yaml data=digits\ngroups: {a: epochs=2, b: epochs=3}\n")
    runs = read_study(Path("study.yaml"), Path("out")).runs
    one, two = (compose(run.words) for run in runs)
    assert [one.epochs, two.epochs, one.data.name] == [2, 3, "digits"] and one.probe.every == 3
    assert {line.partition(":")[0] for line in differences(one, two)} <= {"epochs"}
