"""Watching without labels: what it measures, what it says, what it does, and that it is not hidden state."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from ssl_kd import Cohort, Each, Edge, Encoder, Mutual
from ssl_kd.cli import main as cli
from ssl_kd.engine import fit
from ssl_kd.errors import InputError
from ssl_kd.losses import nt_xent, similarity_kl
from ssl_kd.monitor import Collapsed, Monitor, Watch
from ssl_kd.train import main

SOLO = ["method=simclr", "peers={a: resnet8}", "batch_size=128", "epochs=4", "precision=float32"]
QUIET = ["probe.linear=false", "probe.baselines=false"]
# Views pulled together with nothing that pushes images apart: the textbook way to collapse.
COLLAPSING = [
    "terms.nt_xent.loss={_target_: lightly.loss.NegativeCosineSimilarity}",
    "terms.nt_xent.spread=true",
    "optim.rate.peak=0.01",
    "health.every=5",
]


pytestmark = pytest.mark.usefixtures("own_folder")


def encoder(seed: int, head: str = "z") -> Encoder:
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh())
    return Encoder(body, {head: nn.Linear(8, 5)})


def batches(start: int):
    for k in iter(lambda c=[start - 1]: c.__setitem__(0, c[0] + 1) or c[0], None):
        yield {"views": torch.randn(2, 16, 3, 2, 2, generator=torch.Generator().manual_seed(k))}


def watched(cohort, terms, watch, accelerator, steps, lines=None, texts=None, start=0, recalled=()):
    lines, texts = ([] if lines is None else lines), ([] if texts is None else texts)
    links = [link for term in terms for link in term.links()]
    monitor = Monitor(cohort, links, watch, lines.append, texts.append, start)
    monitor.recall(recalled)
    optimizer = torch.optim.SGD(cohort.parameters(), 0.1)
    fit(
        cohort, terms, batches, [optimizer], [0.1], accelerator,
        steps=steps, start=start, watchers=[monitor], weigh=monitor.weigh,
    )  # fmt: skip
    return lines, texts


def test_the_cosine_is_that_of_the_two_gradients_at_the_students_embedding(accelerator):
    def build():
        return Cohort({"a": encoder(0), "b": encoder(1)})

    own, edge = (
        Each("own", nt_xent, ["a", "b"], "z"),
        Mutual("kl", similarity_kl, ["a", "b"], "z", weight=0.3),
    )
    lines, _ = watched(build(), [own, edge], Watch(every=1), accelerator, steps=1)

    cohort, batch = build(), next(batches(0))
    embedding = cohort.peers["a"].backbone(batch["views"].flatten(0, 1))
    z = cohort.peers["a"].heads["z"](embedding).unflatten(0, (2, 16))
    other = cohort.peers["b"](batch)["z"].detach()
    (task,) = torch.autograd.grad(nt_xent(z), embedding, retain_graph=True)
    (pull,) = torch.autograd.grad(similarity_kl(z, other), embedding)
    expected = torch.nn.functional.cosine_similarity(task.flatten(), pull.flatten(), dim=0)
    assert lines[0]["health"]["cosine/kl/a<-b"] == pytest.approx(float(expected), abs=1e-5)


def test_looking_changes_nothing_of_what_is_learned(accelerator):
    def trained(every: int) -> torch.Tensor:
        cohort = Cohort({"a": encoder(0), "b": encoder(1)})
        terms = [Each("own", nt_xent, ["a", "b"], "z"), Mutual("kl", similarity_kl, ["a", "b"], "z")]
        watched(cohort, terms, Watch(every=every), accelerator, steps=6)
        return torch.cat([p.flatten() for p in cohort.parameters()])

    assert torch.equal(trained(0), trained(1)) and torch.equal(trained(0), trained(3))


def against(student, teacher):
    """An edge that unlearns what the peer's own term learns."""
    return -3 * nt_xent(student) + 0 * teacher.sum()


def test_an_edge_that_pulls_against_its_student_for_long_is_named_once(accelerator):
    terms = [Each("own", nt_xent, ["a", "b"], "z"), Edge("worse", against, "a.z", "b.z", weight=0.1)]
    cohort = Cohort({"a": encoder(0), "b": encoder(1)})
    lines, texts = watched(cohort, terms, Watch(every=2, patience=3), accelerator, steps=12)
    assert len(texts) == 1 and "step 6: worse has pulled against" in texts[0] and "-1.00" in texts[0]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in lines if "alarms" in line] == [6]


def test_an_edge_that_is_not_ramped_in_yet_cannot_hurt(accelerator):
    late = Edge("worse", against, "a.z", "b.z", weight=lambda index: 0.1 if index >= 8 else 0.0)
    terms = [Each("own", nt_xent, ["a", "b"], "z"), late]
    cohort = Cohort({"a": encoder(0), "b": encoder(1)})
    _, texts = watched(cohort, terms, Watch(every=1, patience=2), accelerator, steps=12)
    assert len(texts) == 1 and texts[0].startswith("step 9:")


def test_a_gated_edge_weighs_nothing_from_the_alarm_on(accelerator):
    def trained(extra: list, watch: Watch, steps: int, cohort=None, start=0) -> Cohort:
        cohort = cohort or Cohort({"a": encoder(0), "b": encoder(1)})
        terms = [Each("own", nt_xent, ["a", "b"], "z"), *extra]
        watched(cohort, terms, watch, accelerator, steps, start=start)
        return cohort

    bad = Edge("worse", against, "a.z", "b.z", weight=0.1)
    gated = trained([bad], Watch(every=1, patience=2, on_hurt="gate"), 10)
    by_hand = trained([], Watch(every=0), 10, cohort=trained([bad], Watch(every=0), 2), start=2)
    warned = trained([bad], Watch(every=1, patience=2), 10)
    flat = [torch.cat([p.flatten() for p in c.parameters()]) for c in (gated, by_hand, warned)]
    assert torch.equal(flat[0], flat[1]) and not torch.equal(flat[0], flat[2])


def test_a_gate_opens_again_when_the_edge_helps_again(accelerator):
    def turning(student, teacher):
        return turning.sign * nt_xent(student) + 0 * teacher.sum()

    turning.sign = -1
    cohort = Cohort({"a": encoder(0), "b": encoder(1)})
    terms = [Each("own", nt_xent, ["a", "b"], "z"), Edge("kl", turning, "a.z", "b.z")]
    watch, links = (
        Watch(every=1, patience=2, on_hurt="gate"),
        [link for term in terms for link in term.links()],
    )
    monitor = Monitor(cohort, links, watch, lambda line: None, lambda text: None)
    seen = []

    def look(step, result):
        seen.append(result.terms["kl"][1])
        turning.sign = -1 if step < 4 else 1

    fit(
        cohort, terms, batches, [torch.optim.SGD(cohort.parameters(), 0.01)], [0.01], accelerator,
        steps=9, watchers=[monitor, look], weigh=monitor.weigh,
    )  # fmt: skip
    assert seen == [1, 1, 0, 0, 0, 0, 1, 1, 1]  # two looks at +1 outweigh nothing, the third tips the mean


def test_a_continued_run_gates_as_the_uninterrupted_one(monkeypatch):
    from tests.test_train import killed_after

    words = [
        "peers={a: resnet8, b: resnet8}", "epochs=3", "batch_size=64", "data.limit=320", *QUIET,
        "precision=float32", "health.every=1", "health.patience=2", "health.on_hurt=gate", "log_every=1",
        "terms.kl.loss={_target_: tests.test_monitor.against}", "terms.kl.weight=0.1",
    ]  # fmt: skip
    main([*words, "run=runs/whole"])
    killed_after(7, monkeypatch, [*words, "run=runs/cut"])
    main([*words, "run=runs/cut"])
    whole, cut = (Path(f"runs/{run}/metrics.jsonl").read_text().splitlines() for run in ("whole", "cut"))

    def strip(lines):
        kept = [json.loads(line) for line in lines]
        return [{k: v for k, v in line.items() if k != "images_per_second"} for line in kept]

    assert strip(whole) == strip(cut)
    assert any("its weight is 0" in line for line in whole)


def test_a_collapse_is_named_and_stops_the_run_on_request(capsys):
    assert main([*SOLO, *QUIET, *COLLAPSING, "health.on_collapse=stop", "run=runs/a"]) == 3
    printed = capsys.readouterr().out
    assert "a.projection has collapsed and says the same of every image" in printed
    assert "stopped by health.on_collapse=stop" in printed
    assert not Path("runs/a/summary.json").exists()


def test_a_collapse_only_warns_by_default_and_a_healthy_run_raises_no_alarm(capsys):
    assert main([*SOLO, *QUIET, *COLLAPSING, "run=runs/a"]) == 0
    assert capsys.readouterr().out.count("has collapsed") == 1
    assert main([*SOLO, *QUIET, "health.every=2", "health.patience=1", "run=runs/b"]) == 0
    assert "collapsed" not in capsys.readouterr().out
    assert "alarms" not in Path("runs/b/metrics.jsonl").read_text()


def test_looks_may_be_another_time_when_a_run_is_continued(capsys):
    main([*SOLO, *QUIET, "epochs=1", "run=runs/a"])
    assert main([*SOLO, *QUIET, "epochs=1", "health.every=0", "run=runs/a"]) == 0
    assert main([*SOLO, *QUIET, "epochs=1", "health.on_hurt=gate", "run=runs/a"]) == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["health.on_collapse=panic"], 'health.on_collapse is "panic", but can be: ignore, warn, stop'),
        (["health.on_hurt=kill"], 'health.on_hurt is "kill", but can be: ignore, warn, gate'),
        (["health.on_hurt=gate", "health.every=0"], "health.on_hurt=gate needs looks"),
        (["health.on_hurt=gate", "grad_cache=true", "accumulate=2"], "which grad_cache has not"),
        (["health.patience=0"], "at least 1 look"),
    ],
)
def test_what_cannot_be_watched_is_refused_before_anything_is_written(words, sentence, capsys):
    assert main([*SOLO, *words, "run=runs/a"]) == 2
    assert sentence in capsys.readouterr().err
    assert not Path("runs/a").exists()


def test_watch_is_the_same_from_python():
    with pytest.raises(InputError, match="on_hurt"):
        Watch(on_hurt="never")
    assert issubclass(Collapsed, Exception)


@pytest.mark.usefixtures("warm_processes")
def test_two_processes_see_what_one_sees(tmp_path):
    words = [
        "peers={a: resnet8, b: resnet8}", "epochs=1", "batch_size=64", "data.limit=320", *QUIET,
        "precision=float32", "health.every=1",
    ]  # fmt: skip
    runs = {}
    for processes in (1, 2):
        run = tmp_path / str(processes)
        assert cli(["train", *words, f"run={run}", f"processes={processes}"]) == 0
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        runs[processes] = [line["health"] for line in lines if "health" in line]
    assert len(runs[1]) == len(runs[2]) == 5
    first, second = runs[1][0], runs[2][0]
    assert first.keys() == second.keys()
    assert second == pytest.approx(first, rel=1e-3, abs=1e-4)
