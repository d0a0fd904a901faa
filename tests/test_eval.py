"""`ssl-kd eval`: several probes of one run in one table, with the numbers of the single commands."""

import json
from pathlib import Path

import pytest

from ssl_kd.cli import main
from ssl_kd.commands.evaluate import read
from ssl_kd.errors import InputError


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("eval") / "a"
    words = [
        "method=dogo",
        "peers={a: {backbone: {name: resnet8, base: 4}}, b: {backbone: {name: resnet8, base: 4}}}",
    ]
    assert main(["train", *words, "data.limit=300", "epochs=1", "batch_size=100", "probe.baselines=false",
                 "probe.linear=false", "probe.knn=[20]", f"run={folder}", "tracker=none"]) == 0  # fmt: skip
    return folder


def test_one_table_has_the_scores_of_all_probes_and_each_its_file(run, capsys):
    options = ["knn.knn=[1,20]", "few_labels.per_class=[5]", "few_labels.shares=[]", "few_labels.draws=2"]
    assert main(["eval", f"run={run}", "probes=[knn,few_labels,health]", *options]) == 0
    out = capsys.readouterr().out
    assert (
        "kNN 1 " in out and "few_labels 5 per class" in out and "all together" in out and "raw pixels" in out
    )
    assert "health of the embeddings" in out and "robustness" not in out
    together = json.loads((run / "eval/knn.json").read_text())
    assert main(["knn", f"run={run}", "knn=[1,20]"]) == 0
    assert json.loads((run / "eval/knn.json").read_text()) == together
    assert set(together["peers"]["a"]["knn"]) == {"1", "20"} and (run / "eval/health.json").is_file()


def test_a_probe_that_cannot_be_made_hinders_no_other(run, capsys):
    (run / "eval/knn.json").unlink(missing_ok=True)
    words = ["probes=[finetune,knn]", "finetune.layers=1", "finetune.head=nothing"]
    assert main(["eval", f"run={run}", *words]) == 2
    said = capsys.readouterr()
    assert (
        "not made: finetune" in said.err and "the others are made: knn" in said.err and "kNN 20" in said.out
    )
    assert (run / "eval/knn.json").is_file()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["probes=[knn]"], "run is needed"),
        (["run=x", "probes=[knnn]"], 'there is no probe "knnn"; did you mean "knn"?'),
        (["run=x", "prbes=[knn]"], '"prbes" is not an option of eval; did you mean "probes"?'),
        (["run=x", "finetune.labels=1"], "for a probe that is not asked for"),
        (["run=x", "knn.kn=1"], '"knn.kn" is not an option of eval; did you mean "knn.knn"?'),
        (["run=nowhere"], "is not a run folder"),
        (["run=x", "few_labels.draws=many", "probes=few_labels"], "draws must be a whole number"),
    ],
)
def test_wrong_words_are_one_sentence(words, says, capsys):
    assert main(["eval", *words]) == 2
    assert says in capsys.readouterr().err


def test_what_is_asked_for():
    asked = read(["run=a", "probes=all", "transfer.data=x"] if False else ["run=a", "probes=all"])
    assert {"knn", "linear", "health", "finetune"} <= {*asked.probes} and "transfer" not in asked.probes
    assert read(["run=a"]).probes == {"knn": {}, "linear": {}}
    asked = read(["run=3", "probes=transfer", "transfer.data=fashion_mnist", "transfer.data.limit=9"])
    assert asked.run == "3" and asked.probes["transfer"] == {"data": "fashion_mnist", "data.limit": "9"}
    with pytest.raises(InputError):
        read(["run=a", "probes={a: 1}"])
