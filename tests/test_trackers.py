"""Trackers: one way to draw for all, none needed, and none that can end a training."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ssl_kd.cli import main
from ssl_kd.config import compose
from ssl_kd.errors import InputError
from ssl_kd.identity import run_name
from ssl_kd.trackers import Trackers, chosen, drawn

SMALL = [
    "train", "method=simclr", "peers={a: {backbone: {name: resnet8, base: 4}}}", "data.limit=256", "epochs=2",
    "batch_size=128", "probe.linear=false", "probe.baselines=false", "probe.knn=[20]", "log_every=1",
    "run=runs/a",
]  # fmt: skip
# What a package would do, written down in calls.jsonl.
FAKE = """
import json
def note(*said):
    with open({calls!r}, "a") as file:
        file.write(json.dumps(said) + "\\n")
class Run:
    class info:
        run_id = "abc"
    class config:
        update = staticmethod(lambda values, **options: note("config", sorted(values)[:3]))
    def log(self, values, step=None, **options):
        note("log", step, values)
    def finish(self):
        note("finish")
config = Run.config
def init(**options):
    note("init", options)
    if options.get("project") == "broken":
        raise ConnectionError("no network")
    return Run()
# mlflow's
class utils:
    class validation:
        MAX_PARAM_VAL_LENGTH, MAX_PARAMS_TAGS_PER_BATCH = 500, 100
def set_tracking_uri(uri): note("uri", uri)
def search_experiments(filter_string): return []
def create_experiment(**options): return "1"
def start_run(run_id=None, **options):
    note("start", run_id, options["run_name"])
    return Run()
def log_params(values): note("params", len(values))
def log_metrics(values, step=None):
    assert all(c.isalnum() or c in "_-. /" for key in values for c in key), values
    note("log", step, values)
def end_run(): note("finish")
"""


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Packages of these names that note what they are asked; gives what they noted."""
    place = tmp_path / "packages"
    place.mkdir()
    for name in ("wandb", "mlflow", "trackio"):
        (place / f"{name}.py").write_text(FAKE.format(calls=str(tmp_path / f"{name}.jsonl")))
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(place)
    yield lambda name: [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
    for name in ("wandb", "mlflow", "trackio"):
        sys.modules.pop(name, None)


def tags(folder: str) -> dict[str, list[int]]:
    events = EventAccumulator(folder)
    events.Reload()
    return {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_has_the_terms_the_health_and_the_final_scores(own_folder):
    assert main([*SMALL, "health.every=2", "probe.every=1"]) == 0
    found = tags("runs/a/tensorboard")
    assert found["loss"] == found["terms/nt_xent/a"] == found["rate"] == [1, 2, 3, 4]
    assert found["knn20/a"] == [2, 4] and found["health/rank/a"] == [2, 4] and found["final/knn20/a"] == [4]
    assert not Path("runs/a/trackers.json").exists()


def test_without_a_tracker_metrics_are_written_all_the_same(own_folder):
    assert main([*SMALL, "tracker=none"]) == 0
    assert not Path("runs/a/tensorboard").exists()
    assert len(Path("runs/a/metrics.jsonl").read_text().splitlines()) == 4


def test_a_tracker_that_fails_is_said_once_and_ends_nothing(own_folder, packages, capsys):
    words = ["tracker=[wandb,tensorboard]", "tracker_options.wandb.project=broken"]
    assert main([*SMALL, *words]) == 0
    out = capsys.readouterr().out
    assert out.count("tracker=wandb failed") == 1 and "no network" in out and "metrics.jsonl has every" in out
    assert [call[0] for call in packages("wandb")] == ["init"]
    assert tags("runs/a/tensorboard")["loss"] == [1, 2, 3, 4]


def test_each_tracker_goes_on_in_the_same_run(tmp_path, packages, accelerator):
    options = ("wandb.mode=offline", "mlflow.tracking_uri=file:x", "trackio.project=cats")
    config = compose(["tracker=[wandb,mlflow,trackio]", *(f"tracker_options.{word}" for word in options)])
    config.steps, config.classes = 10, 10
    folder = tmp_path / "run"
    for begun in (0, 5):
        trackers = Trackers(config, chosen(config), folder, begun, pytest.fail)
        trackers.log(begun + 1, {"loss": 1.0, "terms/kl/a<-b": 2.0})
        trackers.close()
    places = json.loads((folder / "trackers.json").read_text())
    begun, continued = (call[1] for call in packages("wandb") if call[0] == "init")
    assert begun == continued and begun["id"] == places["wandb"]["id"] and begun["resume"] == "allow"
    assert begun["project"] == "ssl_kd" and begun["mode"] == "offline" and begun["name"] == "run"
    assert [call for call in packages("mlflow") if call[0] == "start"] == [
        ["start", None, "run"], ["start", "abc", "run"],
    ]  # fmt: skip
    assert ["uri", "file:x"] in packages("mlflow")
    assert ["log", 6, {"loss": 1.0, "terms/kl/a from b": 2.0}] in packages("mlflow")
    first, second = (call[1] for call in packages("trackio") if call[0] == "init")
    assert first == second and first["project"] == "cats" and first["name"].startswith("run-")
    for name in ("wandb", "trackio"):
        kinds = [call[0] for call in packages(name)]
        assert kinds == ["init", "config", "log", "finish", "init", "log", "finish"]  # options are sent once


def test_unknown_trackers_and_missing_packages_are_refused_before_the_data_is_read(capsys):
    assert main(["train", "tracker=wanbd"]) == 2
    assert 'there is no tracker "wanbd"; did you mean "wandb"?' in capsys.readouterr().err
    assert main(["train", "tracker_options.wnadb.project=x"]) == 2
    assert 'did you mean "tracker_options.wandb"?' in capsys.readouterr().err
    assert main(["train", "tracker=3"]) == 2
    assert "tracker must be a name" in capsys.readouterr().err


def test_a_missing_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("ssl_kd.trackers.find_spec", lambda name: None)
    with pytest.raises(
        InputError, match="tracker=mlflow needs a package that is not here: pip install mlflow"
    ):
        chosen(compose(["tracker=mlflow"]))
    assert chosen(compose(["tracker=none"])) == chosen(compose(["tracker=null"])) == []


def test_trackers_change_nothing_of_what_a_run_is_called():
    assert run_name(compose(["tracker=none"])) == run_name(compose(["tracker_options.wandb.project=x"]))


def test_nothing_is_opened_for_a_run_that_draws_nothing(tmp_path):
    trackers = Trackers(SimpleNamespace(), ["tensorboard"], tmp_path / "run", 0, pytest.fail)
    trackers.log(1, {})
    trackers.close()
    assert not (tmp_path / "run").exists()


def test_what_is_drawn_of_a_line():
    line = {"loss": 1.0, "terms": {"kl/a<-b": 2.0}, "weighted": {"kl/a<-b": 4.0}, "rate": 0.1}
    assert drawn(line) == {"loss": 1.0, "rate": 0.1, "terms/kl/a<-b": 2.0}
    scores = {"peers": {"a": {"knn": {"20": 0.5}, "linear": 0.6, "parameters": 7}}, "images_per_second": 3.0}
    assert drawn(scores, "final/") == {"final/knn20/a": 0.5, "final/linear/a": 0.6}
