"""The pages: what is in them, that they stand alone, and that a browser draws them without a word."""

import html
import itertools
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from ssl_kd.build import build_cohort
from ssl_kd.compare import Comparison, Difference, Entry, Group
from ssl_kd.config import compose
from ssl_kd.errors import InputError
from ssl_kd.report import comparison_page, main, run_page
from ssl_kd.report import page as page_module
from ssl_kd.report.comparison import PANELS
from ssl_kd.report.curves import looks
from ssl_kd.report.embeddings import project, spaced, turned
from ssl_kd.report.figures import called, cell, leaves, short
from ssl_kd.report.graph import _ordered, arrows
from ssl_kd.report.images import SMALLEST, strip, tile
from ssl_kd.report.options import brief
from ssl_kd.report.options import section as options_of
from ssl_kd.report.predictions import OUTCOMES, counts, outcomes
from ssl_kd.selection import candidates
from ssl_kd.train import main as train

SECTIONS = [
    "run", "cohort", "scores", "deployment", "curves", "health", "views", "map", "neighbours", "confusion",
    "agreement",
]  # fmt: skip
SMALL = ["data.limit=300", "batch_size=100", "precision=float32", "probe.knn=[1,20]"]
QUICK = ["peers={a: resnet8, b: resnet8}", *SMALL]
LOADS = ("src", "href", "data", "poster", "srcset", "action")


class Reader(HTMLParser):
    """Sections, what the page would load, images without words, charts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sections: list[str] = []
        self.loads: list[str] = []
        self.silent: list[str] = []
        self.charts: list[dict] = []
        self._json = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag == "section":
            self.sections.append(given["id"])
        self.loads += [given[key] for key in LOADS if given.get(key)]
        if tag == "img" and "alt" not in given:
            self.silent.append(given["src"][:40])
        if given.get("role") == "img" and not given.get("aria-label"):
            self.silent.append(tag)
        self._json = given.get("type") == "application/json"

    def handle_data(self, data):
        if self._json:
            self.charts.append(json.loads(data))
            self._json = False


@pytest.fixture(scope="module", autouse=True)
def _threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run of two peers, which no test changes."""
    folder = tmp_path_factory.mktemp("runs") / "pair"
    words = ["epochs=1", "log_every=1", "probe.every=1", "health.every=1", f"run={folder}"]
    assert train([*QUICK, *words]) == 0
    (folder / "eval").mkdir()
    few = {"1%": {"labels": 14, "accuracies": [0.4, 0.6], "mean": 0.5, "low": 0.25, "high": 0.75}}
    content = {"step": 5, "protocol": {"draws": 2}, "peers": {"a": {"few_labels": few}}}
    (folder / "eval/few_labels.json").write_text(json.dumps(content))
    (folder / "eval/mystery.json").write_text(json.dumps({"step": 5, "<b>odd</b>": {"x": {"y": 3}}}))
    return folder


@pytest.fixture(scope="module")
def page(run) -> str:
    return run_page(run).read_text()


def stands_alone(text: str) -> Reader:
    """Loads nothing, says something for every picture, and names nothing that it does not have."""
    read = Reader(text)
    assert all(load.startswith(("#", "data:")) for load in read.loads), read.loads
    style = "".join(re.findall(r"<style>(.*?)</style>", text, re.S))
    assert "@import" not in style and "url(" not in style
    assert not read.silent and read.charts
    assert {"vega-lite" in chart["$schema"] for chart in read.charts} == {True}
    return read


def test_a_run_gets_one_page_with_all_its_sections(run, page):
    assert stands_alone(page).sections == SECTIONS
    assert len(page) < 2_000_000 and page.count("window.vegaEmbed=") == 1
    for said in ("DoGo on digits", "Two networks learned together", "Deploy ", "Bhat, Arani, Zonooz"):
        assert said in page


def test_the_page_is_the_only_file_that_a_report_leaves(run, page):
    made = {path.name for path in run.iterdir()}
    assert made == {
        "checkpoints", "config.yaml", "data.json", "environment.json", "eval", "lock", "metrics.jsonl",
        "report.html", "status.json", "summary.json", "tensorboard",
    }  # fmt: skip


def test_the_confusion_matrix_has_the_accuracy_of_the_knn_probe(run, page):
    summary = json.loads((run / "summary.json").read_text())
    for name in "ab":
        right = 100 * summary["peers"][name]["knn"]["20"]
        assert f"<b>{name}.</b> {right:.1f} % right." in page


def test_results_of_every_probe_are_shown_and_escaped(page):
    assert "50.0 (25.0 to 75.0)" in page and "draws 2" in page
    assert "<b>odd</b>" not in page and "&lt;b&gt;odd&lt;/b&gt;" in page


def test_two_reports_of_a_checkpoint_differ_in_nothing_but_latency(run, page, tmp_path):
    copy = tmp_path / "pair"
    shutil.copytree(run, copy)
    again = run_page(copy).read_text()
    parts = [re.sub(r"[\d.]+ ms|<dt>Finished</dt><dd>.*?</dd>", "", text) for text in (page, again)]
    assert parts[0] == parts[1]


def test_a_run_without_labels_gets_a_page_that_says_what_is_not_there(tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 255, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"photos/{i}.png")
    words = [f"data.root={tmp_path}/photos", "data.size=16", "batch_size=6", "epochs=1"]
    assert train([QUICK[0], "data=folder", *words, f"run={tmp_path}/r"]) == 0
    text = run_page(tmp_path / "r").read_text()
    assert stands_alone(text).sections == SECTIONS
    assert "There are no scores: the probes need labels" in text and "SimCLR" not in text
    assert "Not shown: the probes need labels" in text and "There are no labels, so nothing is marked" in text


def test_peers_that_embed_no_images_are_left_out(tmp_path):
    words = ["method=moco", "peers.query.backbone=resnet8", "peers.key.backbone=resnet8"]
    words += ["peers.queue.size=300", "probe.linear=false", "probe.baselines=false", "epochs=1"]
    assert train([*words, *SMALL, f"run={tmp_path}/r"]) == 0
    text = run_page(tmp_path / "r").read_text()
    assert stands_alone(text).sections == SECTIONS
    assert "One network learned, beside one that did not learn by gradient" in text
    assert "<h3>key</h3>" in text and "<h3>queue</h3>" not in text


def comparison(folder: Path, seeds: int = 3) -> Comparison:
    """Two groups that nobody trained."""
    groups = []
    for name, words in (
        ("solo", ["method=simclr", "peers=[resnet8]"]),
        ("<pair>", ["peers=[resnet8,resnet8]"]),
    ):
        config = compose(words)
        config.steps, config.classes = 11, 10
        config = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
        runs = []
        for seed in range(seeds):
            place = folder / f"{name.strip('<>')}-{seed}"
            place.mkdir(parents=True)
            lines = [
                {"step": s, "epoch": s, "peers": {p: {"knn": {"20": 0.5 + s / 10}} for p in config.peers}}
                for s in (1, 2)
            ]
            (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            scores = {p: {"knn": {"20": 0.7 + seed / 100}, "linear": 0.8} for p in config.peers}
            runs.append(Entry(str(place), seed, config, {"peers": scores}, 60.0))
        groups.append(Group(name, tuple(runs), 20, 1e9 * (1 + len(groups))))
    low = -0.01 if seeds > 1 else math.nan
    found = [
        Difference(
            "<pair>", peer, "resnet8", score, 0.01, low, -3 * low, -2 * low, 0.71, 0.7, tuple(range(seeds)),
            tuple(0.01 * seed for seed in range(seeds)),
        )
        for peer in ("resnet8_1", "resnet8_2")
        for score in ("knn20", "linear")
    ]  # fmt: skip
    return Comparison("solo", tuple(groups), tuple(found), ("pair trains two networks.",))


def test_a_comparison_gets_a_page_and_a_plot_that_stands_alone(tmp_path):
    path = comparison_page(comparison(tmp_path), tmp_path / "out")
    text, plot = path.read_text(), (tmp_path / "out/comparison.svg").read_text()
    assert stands_alone(text).sections == ["answer", "differences", "runs", "curves", "cost", "options"]
    assert "0 of 4 differences have an interval" in text and "pair trains two networks." in text
    assert "<pair>" not in text and "&lt;pair&gt;" in text and "-1.0 to +3.0" in text and "2.00" in text
    assert plot.startswith("<svg") and "var(--" not in plot and "href" not in plot


def test_the_plot_of_many_peers_has_a_row_for_each_and_a_chart_for_each_score(tmp_path):
    few, drawn = comparison(tmp_path), tmp_path / "out/comparison.svg"
    many = [
        replace(d, peer=f"{d.peer}-{number}") for number in range(PANELS // 2 + 1) for d in few.differences
    ]
    comparison_page(replace(few, differences=tuple(many)), drawn.parent)
    said = re.findall(r">([^<>]+)</text>", drawn.read_text())
    assert said.count("kNN 20") == said.count("linear") == 1
    assert [text for text in said if "resnet8" in text] == [
        html.escape(f"<pair>, {d.peer} against resnet8")
        for d in [*many[::2], *many[1::2]]  # of one score, then of the other
    ]


def test_the_script_of_the_charts_is_made_once_and_a_damaged_one_again(tmp_path, monkeypatch):
    made = iter(["first", "second", "third", "fourth"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("vl_convert.javascript_bundle", lambda *_, **__: f"the {next(made)} </script")
    script = page_module._bundle.__wrapped__
    assert script() == script() == "the first <\\/script"
    (kept,) = (tmp_path / "ssl_kd/scripts").iterdir()
    assert kept.stat().st_mode & 0o077 == 0
    for damaged, now in ((b"", "second"), (b"// no line", "third"), (b"// sha256 0\nevil", "fourth")):
        kept.write_bytes(damaged)
        assert script() == script() == f"the {now} <\\/script"


def test_one_seed_is_shown_without_an_interval(tmp_path):
    text = comparison_page(comparison(tmp_path, seeds=1), tmp_path).read_text()
    assert "too few for an interval" in text and "nan" not in re.sub(
        r"<script.*?</script>", "", text, flags=re.S
    )


def test_options_that_differ_are_shown_as_near_to_the_leaves_as_they_can_be(tmp_path):
    table = str(options_of(comparison(tmp_path).groups).blocks[0])
    assert "terms.nt_xent.peers" in table and "terms.nt_xent.loss" not in table
    assert "Mutual(loss=similarity_kl(temperature=0.1)" in table and "optim" not in table
    assert brief({"_target_": "a.b.C", "x": [1, None], "y": {"z": 2}}) == "C(x=1, none, y=z=2)"


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_a_browser_draws_every_chart_and_has_nothing_to_complain_of(run, page, tmp_path):
    for path in (run / "report.html", comparison_page(comparison(tmp_path), tmp_path)):
        command = [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr",
            f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=20000", "--dump-dom", f"file://{path}",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        drawn = done.stdout
        assert "CONSOLE" not in done.stderr and "could not be drawn" not in drawn.split("<script>")[0]
        assert 'class="drawn"' in drawn
        charts = len(Reader(path.read_text()).charts)
        assert (
            len(re.findall(r'<div class="plot[^>]*>\s*(?:<script.*?</script>)?\s*<svg', drawn, re.S))
            == charts
        )


def test_bad_words_are_refused_in_one_sentence(run, monkeypatch):
    for words, says in (
        ([], "run is needed"),
        ([f"run={run}", "mpa=umap"], 'did you mean "map"?'),
        ([f"run={run}", "map=tsne"], "can be: pca, umap"),
        (["run=nowhere"], "is not a run folder"),
    ):
        with pytest.raises(InputError, match=re.escape(says)):
            main(words)
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "umap" else find(name))
    with pytest.raises(InputError, match="pip install umap-learn"):
        run_page(run, map="umap")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "altair" else find(name))
    with pytest.raises(InputError, match=r"pip install 'ssl-kd\[report\]'"):
        main([f"run={run}"])


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """A run with a leader, a fusion, decoders and followers, whose checkpoint a rule has chosen."""
    folder = tmp_path_factory.mktemp("runs") / "many"
    tiny = "{backbone: {name: resnet8, base: 4}}"
    words = [
        "method=ssl_kd", "parts=[peers,exits,fusion,shift,ema]", f"peers={{a: {tiny}, b: {tiny}}}", *SMALL,
        "epochs=1", "log_every=1", "health.every=1", "probe.every=1", "probe.select=held_out",
        "probe.baselines=false", f"run={folder}",
    ]  # fmt: skip
    assert train(words) == 0
    return folder


def test_a_fusion_needs_its_peers_and_is_not_advised(many):
    peers = json.loads((many / "summary.json").read_text())["peers"]
    assert [*peers] == ["a", "b", "leader", "fusion", "a_ema", "b_ema"]
    config = OmegaConf.load(many / "config.yaml")
    own = build_cohort(config, (1, 8, 8)).peers["fusion"].backbone
    fused = sum(p.numel() for p in own.parameters())
    assert peers["fusion"]["parameters"] == 2 * peers["a"]["parameters"] + fused
    assert candidates(build_cohort(config, (1, 8, 8))).count("fusion") == 0


def test_the_page_of_a_cohort_with_helpers_says_who_is_what(many):
    text = run_page(many).read_text()
    assert stands_alone(text).sections == SECTIONS
    assert "Three networks learned together, and fusion, b_decoder and leader_decoder from what these" in text
    assert "beside two that did not learn by gradient" in text
    assert "fusion reads a" in text and "fusion reads b" in text and "a_ema teaches a by ema" in text
    assert "a.<wbr>projection1, projection2, projection" in text  # 18 edges of exits in 6 rows
    assert "Means over the edges of each peer, 18 in all." in text
    assert "of other outputs, are in metrics.jsonl" in text


def test_peers_stand_beside_those_they_have_to_do_with():
    names = ["a", "b", "c", "d", "e", "f"]
    assert _ordered(names, {("a", "b"): 1}) == names
    assert _ordered(names, dict.fromkeys(itertools.permutations(names, 2), 1)) == names
    ring = {("a", "d"): 1, ("d", "b"): 1, ("b", "f"): 1, ("f", "c"): 1, ("c", "e"): 1, ("e", "a"): 1}
    around = _ordered(names, ring)
    assert {*map("".join, zip(around, [*around[1:], "a"], strict=True))} in (
        {"ad", "db", "bf", "fc", "ce", "ea"},
        {"ae", "ec", "cf", "fb", "bd", "da"},
    )


def test_arrows_are_lessons_averages_and_what_a_term_is_given_besides():
    assert arrows(compose(["peers={a: resnet8, b: resnet8}"])) == {("b", "a"): ["kl"], ("a", "b"): ["kl"]}
    assert arrows(compose(["method=moco"])) == {
        ("key", "query"): ["info_nce"],
        ("queue", "query"): ["info_nce"],
        ("query", "key"): ["average"],
        ("key", "queue"): ["rows"],
    }


def test_a_peers_curves_have_its_colour_and_dashes_of_their_own():
    def pairs(*names):
        return [(style.colour, style.dash) for style in looks(names, ["a", "b"])]

    assert pairs("nt_xent/a", "nt_xent/b") == [(0, 0), (1, 1)]
    assert pairs("nt_xent/a", "nt_xent/b", "kl/a<-b", "kl/b<-a", "kd") == [
        (0, 0),
        (1, 0),
        (0, 1),
        (1, 1),
        (2, 0),
    ]
    assert pairs("rate") == [(0, 0)] == pairs("cka/a,b")


def test_maps_are_turned_and_mirrored_onto_the_first_without_changing_distances():
    first = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)).numpy()
    other = first @ np.array([[0.0, 1.0], [1.0, 0.0]]) + 3  # mirrored and moved
    assert np.allclose(turned(other, first), first - first.mean(0), atol=1e-5)
    rows = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    points, sentence = project(rows, "pca")
    assert points.shape == (40, 2) and "% of the variance" in sentence
    assert np.allclose(points, project(rows.clone(), "pca")[0])


def test_outcomes_of_two_peers_are_all_of_the_images():
    truth = torch.tensor([0, 0, 0, 0, 1])
    a, b = torch.tensor([0, 0, 1, 1, 0]), torch.tensor([0, 1, 0, 1, 2])
    assert outcomes(a, b, truth) == pytest.approx([0.2] * len(OUTCOMES))
    assert counts(a, truth, 3).tolist() == [[2, 2, 0], [1, 0, 0], [0, 0, 0]]


def test_numbers_are_written_for_people():
    found = {"knn": {"20": 0.5}, "few_labels": {"1%": {"mean": 0.5, "low": 0.4, "high": 0.6, "labels": 3}}}
    cells = {called(path): cell(path, value) for path, value in leaves(found)}
    assert cells == {"kNN 20": "50.0", "few labels 1%": "50.0 (40.0 to 60.0)"}
    assert cell("linear_penalty", 0.001) == "0.001" and cell("labels", 14) == "14" and cell("x", None) == ""
    assert [short(n) for n in (12, 3_051_520, 4.2e9)] == ["12", "3.05 M", "4.2 G"]


def test_small_images_are_repeated_and_marked_ones_show_it_without_colour():
    small, large = tile(np.zeros((1, 8, 8), np.uint8)), tile(torch.ones(3, 200, 100))
    assert small.shape == (SMALLEST, SMALLEST, 3) and large.shape == (96, 48, 3) and large.min() == 255
    sources = [strip([small, small], marks)[0] for marks in ([False, False], [False, True])]
    assert sources[0] != sources[1] and all(s.startswith("data:image/webp;base64,") for s in sources)
    assert spaced(10, 20).tolist() == list(range(10)) and spaced(10, 3).tolist() == [0, 3, 6]
