"""Groups of runs against each other: what is paired, what is said, what is refused."""

import json
import math
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from rich.console import Console
from scipy import stats

from ssl_kd.compare import compare, conclusion, label, main, plain, points, table
from ssl_kd.compare.compute import training_macs
from ssl_kd.config import compose
from ssl_kd.errors import InputError
from ssl_kd.intervals import detectable, interval

SOLO = ("method=simclr", "peers=[resnet8]")
PAIR = ("method=dogo", "peers=[resnet8,resnet8]")
MACS = 1_000_000
KNN20 = [0.80, 0.82, 0.79, 0.83, 0.81]


@cache
def composed(words: tuple[str, ...]) -> tuple[str, int, list[str]]:
    """A resolved config as YAML without seed and run, its steps, its networks."""
    config = compose(words)
    config.steps, config.classes = 11 * config.epochs, 10
    plain_config = OmegaConf.to_container(config, resolve=True)
    kept = {key: value for key, value in plain_config.items() if key not in ("seed", "run")}
    networks = [str(name) for name, peer in config.peers.items() if "backbone" in peer]
    return OmegaConf.to_yaml(OmegaConf.create(kept)), config.steps, networks


def scores(knn20: float) -> dict:
    return {
        "parameters": 78_000,
        "knn": {"1": knn20 - 0.02, "20": knn20},
        "linear": knn20 + 0.013 * math.sin(1000 * knn20),
        "linear_held_out": 0.5,
        "linear_penalty": 0.001,
    }


def write(folder: Path, words: tuple[str, ...], seed: int, knn20: dict[str, float] | float, **more) -> str:
    """A finished run that nobody trained. knn20: of each peer, or of all."""
    text, steps, networks = composed(words)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"seed: {seed}\nrun: {folder}\n{text}")
    has = knn20 if isinstance(knn20, dict) else dict.fromkeys(networks, knn20)
    summary = {
        "checkpoint": "last",
        "steps": steps,
        "seconds": 60.0 + seed,
        "peers": {name: scores(value) for name, value in has.items()},
        "macs": dict.fromkeys(networks, MACS),
    }
    (folder / "summary.json").write_text(json.dumps({**summary, **more}))
    return str(folder)


def change(folder: str, **values) -> None:
    """Other values of config.yaml."""
    config = OmegaConf.load(Path(folder) / "config.yaml")
    for key, value in values.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    OmegaConf.save(config, Path(folder) / "config.yaml")


def edit(folder: str, **values) -> None:
    """Other values of summary.json; None takes one away."""
    path = Path(folder) / "summary.json"
    summary = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in summary.items() if value is not None}))


def solo(root: Path, seeds=range(3), name="solo", words=SOLO) -> list[str]:
    return [write(root / f"{name}-{seed}", words, seed, KNN20[seed]) for seed in seeds]


def pair(root: Path, seeds=range(3), name="pair", words=PAIR, gains=(0.02, 0.01, 0.03, 0.0, 0.02), **more):
    return [
        write(
            root / f"{name}-{seed}",
            words,
            seed,
            {"resnet8_1": KNN20[seed] + gains[seed], "resnet8_2": KNN20[seed] - gains[seed] / 2},
            **more,
        )
        for seed in seeds
    ]


def shown(comparison, width: int = 110) -> str:
    out = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    out.print(table(comparison))
    out.file.close()
    return out.export_text()


# Numbers


def test_a_difference_and_its_interval_are_those_of_the_paired_t_test(tmp_path):
    found = compare([*solo(tmp_path, range(5)), *pair(tmp_path, range(5))])
    assert (found.base, [group.name for group in found.groups]) == ("solo", ["solo", "pair"])
    assert {(d.peer, d.score) for d in found.differences} == {
        (peer, score) for peer in ("resnet8_1", "resnet8_2") for score in ("knn1", "knn20", "linear")
    }
    for d in found.differences:
        ours, theirs = (
            [run.summary["peers"][peer] for run in group.runs]
            for group, peer in zip(reversed(found.groups), (d.peer, d.base_peer), strict=True)
        )
        read = {"knn1": lambda s: s["knn"]["1"], "knn20": lambda s: s["knn"]["20"]}.get(d.score)
        a, b = ([(read(s) if read else s["linear"]) for s in side] for side in (ours, theirs))
        expected = stats.ttest_rel(a, b).confidence_interval(0.95)
        assert (d.low, d.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
        assert d.mean == pytest.approx(np.mean(a) - np.mean(b), abs=1e-12)
        assert (d.group_mean, d.base_mean) == pytest.approx((np.mean(a), np.mean(b)))
        assert d.values == pytest.approx(np.subtract(a, b)) and d.seeds == (0, 1, 2, 3, 4)
        assert d.detectable == pytest.approx(detectable(float(np.std(np.subtract(a, b), ddof=1)), 5))
        assert d.leaves_out_zero == (stats.ttest_rel(a, b).pvalue < 0.05)


@pytest.mark.parametrize("count", [2, 3, 5, 20])
def test_the_detectable_effect_is_found_in_four_of_five_simulated_experiments(count):
    effect = detectable(0.7, count)
    drawn = np.random.default_rng(count).normal(effect, 0.7, (40_000, count))
    half = stats.t.ppf(0.975, count - 1) * drawn.std(1, ddof=1) / math.sqrt(count)
    outside = np.abs(drawn.mean(1)) > half
    assert outside.mean() == pytest.approx(0.8, abs=0.007)  # three standard errors of the simulation


def test_one_value_and_equal_values_have_a_mean_and_no_interval():
    for values in ([0.3], [0.9 - 0.6, 0.3, 0.5 - 0.2]):
        found = interval(values)
        assert found.mean == pytest.approx(0.3)
        assert all(math.isnan(value) for value in (found.low, found.high, found.detectable))


def test_only_seeds_of_both_groups_are_paired_and_the_others_are_named(tmp_path):
    found = compare([*solo(tmp_path, range(4)), *pair(tmp_path, (4, 2, 1))])
    assert {d.seeds for d in found.differences} == {(1, 2)}
    assert "Seed 4 is in pair and not in solo: left out." in found.notes
    assert "Seeds 0, 3 are in solo and not in pair: left out." in found.notes
    assert found.differences[0].base_mean == pytest.approx(np.mean([KNN20[1], KNN20[2]]) - 0.02)


def test_one_seed_gives_numbers_without_an_interval_and_says_that_it_proves_nothing(tmp_path):
    found = compare([*solo(tmp_path, [0]), *pair(tmp_path, [0])])
    d = next(d for d in found.differences if (d.peer, d.score) == ("resnet8_1", "knn20"))
    assert d.mean == pytest.approx(0.02) and math.isnan(d.low) and math.isnan(d.detectable)
    assert any("one run proves nothing" in note for note in found.notes)
    assert any("+2.0 points of one pair of runs, which proves nothing" in line for line in conclusion(found))
    assert "no interval" in shown(found) and not any("out 0" in line for line in conclusion(found))


def test_a_difference_that_is_the_same_for_every_seed_has_no_interval_and_a_note(tmp_path):
    found = compare([*solo(tmp_path), *pair(tmp_path, gains=[0.02] * 3)])
    d = next(d for d in found.differences if (d.peer, d.score) == ("resnet8_1", "knn20"))
    assert d.mean == pytest.approx(0.02) and math.isnan(d.low) and not d.leaves_out_zero
    assert any(
        "resnet8_1, knn20: the difference from resnet8 is the same for all 3" in n for n in found.notes
    )


def test_few_labels_robustness_and_top1_are_scores_and_penalties_are_not(tmp_path):
    more = {
        "top1": 0.9,
        "few_labels": {"1%": {"mean": 0.5, "low": 0.4}},
        "robustness": {"mean": 0.6, "clean": 1},
    }
    peers = {"resnet8": {**scores(0.8), **more}}
    for seed in range(2):
        write(tmp_path / f"solo-{seed}", SOLO, seed, 0.8, peers=peers)
        write(tmp_path / f"long-{seed}", (*SOLO, "epochs=40"), seed, 0.8, peers=peers)
    found = compare(sorted(map(str, tmp_path.iterdir())))
    names = [d.score for d in found.differences]
    assert names == ["knn1", "knn20", "linear", "top1", "few_labels 1%", "robustness"]
    assert [label(name) for name in names] == [
        "kNN 1",
        "kNN 20",
        "linear",
        "top-1",
        "1% labels",
        "robustness",
    ]


def test_a_score_that_some_runs_lack_is_left_out_with_a_note(tmp_path):
    folders = [*solo(tmp_path, range(3)), *pair(tmp_path, range(3))]
    peers = json.loads(Path(folders[-1], "summary.json").read_text())["peers"]
    del peers["resnet8_1"]["linear"]
    edit(folders[-1], peers=peers)
    found = compare(folders)
    assert {d.peer for d in found.differences if d.score == "linear"} == {"resnet8_2"}
    assert "Not in every run of pair and solo, so not compared: linear." in found.notes


# Groups


def test_incidental_options_do_not_divide_a_group_and_all_others_do(tmp_path):
    folders = [*solo(tmp_path), *pair(tmp_path, range(2))]
    change(folders[1], threads=1, save_every=5, probe__every=3, probe__baselines=False, device="cpu")
    change(folders[2], log_every=7, processes=2)
    assert [len(group.runs) for group in compare(folders).groups] == [3, 2]
    change(folders[2], batch_size=64)
    with pytest.raises(
        InputError, match=r'group "solo", but differ in batch_size: 128 there, 64 here; leave'
    ):
        compare(folders)


def test_runs_that_each_read_the_teacher_of_their_own_seed_are_one_group(tmp_path):
    folders = [*solo(tmp_path), *pair(tmp_path)]
    for seed, folder in enumerate(folders[3:]):
        change(folder, peers__resnet8_2__weights=f"{tmp_path}/teacher-{seed}/1-wide")
    assert [group.name for group in compare(folders).groups] == ["solo", "pair"]
    change(folders[4], peers__resnet8_2__weights=f"{tmp_path}/teacher-7/1-wide")
    with pytest.raises(InputError, match=r'group "pair", but differ in peers.resnet8_2.weights: .*teacher-7'):
        compare(folders)


def test_runs_that_each_have_the_labels_of_their_own_seed_are_one_group(tmp_path):
    folders = [*solo(tmp_path), *pair(tmp_path)]
    for seed, folder in enumerate(folders[3:]):
        change(folder, labels__draw=seed)
    assert [len(group.runs) for group in compare(folders).groups] == [3, 3]
    change(folders[4], labels__draw=5)
    with pytest.raises(InputError, match="but differ in labels.draw: 0 there, 5 here"):
        compare(folders)


@pytest.mark.parametrize(
    ("folders", "name"),
    [
        (["solo-0", "solo-1"], "solo"),
        (["solo-10", "solo-11"], "solo"),
        (["solo-3"], "solo"),
        (["resnet20-0", "resnet20-1"], "resnet20"),
        (["resnet20"], "resnet20"),
        (["solo0", "solo1"], "solo"),
        (["cifar/0", "cifar/1"], "cifar"),
        (["simclr-digits-0-ab12cd", "simclr-digits-1-09ffe1"], "simclr-digits"),
    ],
)
def test_a_group_is_called_what_its_folders_have_in_common_without_the_seed(folders, name, tmp_path):
    for seed, folder in enumerate(folders):
        write(tmp_path / folder, SOLO, seed, 0.8)
    found = compare([*(str(tmp_path / folder) for folder in folders), *pair(tmp_path / "z", range(2))])
    assert found.base == name


def test_groups_of_one_name_are_told_apart_by_the_folder_above(tmp_path):
    found = compare([*solo(tmp_path / "short"), *solo(tmp_path / "long", words=(*SOLO, "epochs=40"))])
    assert [group.name for group in found.groups] == ["short/solo", "long/solo"]


def test_a_folder_named_twice_counts_once_and_a_copy_of_a_run_is_refused(tmp_path):
    folders = [*solo(tmp_path, range(2)), *pair(tmp_path, range(2))]
    assert compare([*folders, folders[0] + "/"]).differences == compare(folders).differences
    with pytest.raises(
        InputError, match=r"solo-0 and .*solo-9 are the same configuration with the same seed 0"
    ):
        compare([*folders, write(tmp_path / "solo-9", SOLO, 0, 0.8)])


def test_the_base_is_the_cheapest_lone_network_or_the_one_that_is_named(tmp_path):
    long = solo(tmp_path, name="solo-long", words=(*SOLO, "epochs=40"))
    folders = [*pair(tmp_path), *long, *solo(tmp_path)]
    assert compare(folders).base == "solo"
    named = compare(folders, base="solo-long")
    assert [group.name for group in named.groups] == ["solo-long", "pair", "solo"]
    with pytest.raises(InputError, match=r'no group "sollo"; did you mean "solo"\?'):
        compare(folders, base="sollo")


def test_without_a_lone_network_or_with_two_that_cost_the_same_the_base_must_be_named(tmp_path):
    trio = ("method=dogo", "peers=[resnet8,resnet8,resnet8]")
    folders = [*pair(tmp_path), *(write(tmp_path / f"trio-{s}", trio, s, KNN20[s]) for s in range(3))]
    with pytest.raises(InputError, match="no group trains one network alone; say by base= .*: pair, trio"):
        compare(folders)
    with pytest.raises(InputError, match="2 groups train one network alone; say by base="):
        compare([*solo(tmp_path), *solo(tmp_path, name="warm", words=(*SOLO, "optim.rate.warmup=0.2"))])
    found = compare(folders, base="pair")
    matched = {d.peer: d.base_peer for d in found.differences}
    assert matched == {"resnet8_1": "resnet8_1", "resnet8_2": "resnet8_2", "resnet8_3": "resnet8_1"}
    assert any("resnet8_3 of trio is compared with resnet8_1, the first peer" in note for note in found.notes)


# Peers


def test_peers_are_matched_by_name_and_backbone_and_a_larger_helper_is_left_out(tmp_path):
    words = (
        "method=dogo",
        "peers={resnet8: resnet20, small: resnet8, wide: {backbone: {name: resnet8, base: 32}}}",
    )
    folders = [write(tmp_path / f"mixed-{seed}", words, seed, KNN20[seed]) for seed in range(2)]
    found = compare([*solo(tmp_path, range(2)), *folders])
    assert {(d.peer, d.base_peer) for d in found.differences} == {("small", "resnet8")}
    assert "resnet8 of mixed is not compared: solo has no peer with its backbone (resnet20)." in found.notes
    assert (
        "wide of mixed is not compared: solo has no peer with its backbone (resnet8, base=32)." in found.notes
    )


def test_followers_are_compared_and_frozen_peers_and_queues_are_not(tmp_path):
    words = ("method=moco", "peers.query.backbone=resnet8", "peers.key.backbone=resnet8")
    frozen = ("method=dogo", "peers={a: resnet8, b: {backbone: resnet8, frozen: true}}")
    folders = [write(tmp_path / f"moco-{s}", words, s, {"query": 0.8, "key": KNN20[s]}) for s in range(2)]
    folders += [write(tmp_path / f"taught-{s}", frozen, s, KNN20[s]) for s in range(2)]
    found = compare([*solo(tmp_path, range(2)), *folders], base="solo")
    assert {(d.group, d.peer) for d in found.differences} == {
        ("moco", "query"),
        ("moco", "key"),
        ("taught", "a"),
    }
    assert "b of taught is frozen and not compared." in found.notes
    assert any(
        note.startswith("taught trains one network and runs one more: 1.3 times") for note in found.notes
    )


def test_a_fusion_is_not_compared_and_the_parts_of_a_method_are_no_other_option(tmp_path):
    words = ("method=ssl_kd", "peers=[resnet8,resnet8]", "parts=[peers,fusion]")
    folders = [write(tmp_path / f"whole-{s}", words, s, KNN20[s]) for s in range(2)]
    found = compare([*solo(tmp_path, range(2)), *folders], base="solo")
    assert {d.peer for d in found.differences} == {"resnet8_1", "resnet8_2", "leader"}
    assert "fusion of whole reads what other peers say and is not compared." in found.notes
    assert not any("differ in" in note for note in found.notes)
    assert any(note.startswith("whole trains three networks: ") for note in found.notes)


def test_a_cached_teacher_costs_one_pass_over_the_images(tmp_path):
    plain = ("method=kd", "peers.teacher.backbone=wrn-16-4", "peers.teacher.weights=null", "recipe=plain")
    costs = []
    for name, more in (("run", ()), ("kept", ("peers.teacher.cache=true",))):
        folder = write(tmp_path / f"{name}-0", (*plain, *more), 0, 0.8)
        config = OmegaConf.load(Path(folder) / "config.yaml")
        summary = json.loads((Path(folder) / "summary.json").read_text())
        costs.append(training_macs([(config, summary)])[0])
    images = config.steps * config.batch_size
    assert costs == [images * MACS * 4, pytest.approx(images * MACS * (3 + 1 / config.epochs))]


def test_the_ensemble_is_compared_with_each_base_peer_and_with_the_ensemble_of_the_base(tmp_path):
    folders = [*solo(tmp_path, range(3))]
    folders += pair(tmp_path, range(3), ensemble={"knn": {"20": 0.9}, "linear": 0.9})
    found = [d for d in compare(folders).differences if d.peer == "ensemble"]
    assert [(d.base_peer, d.score) for d in found] == [("resnet8", "knn20"), ("resnet8", "linear")]
    assert found[0].mean == pytest.approx(0.9 - np.mean(KNN20[:3]))
    found = [d for d in compare(folders, base="pair").differences if d.peer == "ensemble"]
    assert found == []
    folders += pair(
        tmp_path, range(3), "slow", (*PAIR, "epochs=40"), ensemble={"knn": {"20": 0.8}, "linear": 0.9}
    )
    found = [d for d in compare(folders, base="pair").differences if d.peer == "ensemble"]
    assert {d.base_peer for d in found} == {"resnet8_1", "resnet8_2", "ensemble"}
    assert re.search(r"│ ensemble +│", shown(compare(folders, base="pair")))


# Compute


def test_compute_counts_three_times_what_learns_and_once_what_only_runs(tmp_path):
    moco = ("method=moco", "peers.query.backbone=resnet8", "peers.key.backbone=resnet8")
    folders = [
        write(tmp_path / "solo-0", SOLO, 0, 0.8),
        write(tmp_path / "pair-0", PAIR, 0, 0.8),
        write(tmp_path / "cached-0", (*PAIR, "accumulate=2", "grad_cache=true"), 0, 0.8),
        write(tmp_path / "moco-0", moco, 0, {"query": 0.8, "key": 0.8}),
        write(tmp_path / "crops-0", (*SOLO, "recipe=multicrop"), 0, 0.8),
    ]
    compute = {group.name: group.compute for group in compare(folders, base="solo").groups}
    images_and_views = 20 * 11 * 128 * 2
    assert compute["solo"] == 3 * MACS * images_and_views
    assert compute["pair"] == 6 * MACS * images_and_views
    assert compute["cached"] == 8 * MACS * images_and_views
    assert compute["moco"] == 4 * MACS * images_and_views
    assert compute["crops"] == pytest.approx(compute["solo"] * (2 + 6 * 0.4286**2) / 2)


def test_a_run_that_did_not_note_its_macs_has_its_networks_built_again(tmp_path):
    folders = [*solo(tmp_path, range(2)), *pair(tmp_path, range(2))]
    for folder in folders:
        edit(folder, macs=None)
        Path(folder, "data.json").write_text(json.dumps({"train": {"shape": [1, 8, 8]}}))
    one, two = compare(folders).groups
    assert two.compute == 2 * one.compute > 1e9


def test_networks_that_cannot_be_built_cost_an_unknown_amount_and_are_still_compared(tmp_path):
    folders = [*solo(tmp_path, range(2)), *pair(tmp_path, range(2))]
    for folder in folders:
        edit(folder, macs=None)
        change(folder, data___target_="ssl_kd.nowhere")
    found = compare(folders)
    assert math.isnan(found.groups[0].compute) and len(found.differences) == 6
    assert any(note.startswith("The compute of pair is unknown: ") for note in found.notes)
    assert "compute ?" in shown(found) and "compute unknown" in conclusion(found)[0]
    assert plain(found)["groups"][1]["relative_compute"] is None


def test_a_base_with_less_compute_is_named_with_the_epochs_that_make_it_equal(tmp_path):
    found = compare([*solo(tmp_path), *pair(tmp_path)])
    assert (
        "pair trains two networks: 2.0 times the compute of solo; train solo longer, epochs=40, to know "
        "whether the peers or the compute helped." in found.notes
    )
    assert conclusion(found)[0] == "pair against solo, 20 epochs each, 2 times the compute:"


def test_a_comparison_at_equal_compute_is_stated_and_one_that_is_at_hand_is_pointed_out(tmp_path):
    folders = [*solo(tmp_path), *pair(tmp_path), *solo(tmp_path, name="longer", words=(*SOLO, "epochs=40"))]
    found = compare(folders)
    assert (
        "pair has 2.0 times the compute of solo, and longer has as much: base=longer compares them at equal "
        "compute." in found.notes
    )
    assert "longer trains longer: 2.0 times the compute of solo." in found.notes
    found = compare(folders, base="longer")
    assert "pair and longer are compared at equal compute." in found.notes
    assert "solo has 0.5 times the compute of longer." in found.notes
    assert "pair against longer, 20 epochs against 40, equal compute:" in conclusion(found)


def test_the_compute_of_earlier_runs_is_said_not_to_be_counted(tmp_path):
    runs = [*solo(tmp_path), *solo(tmp_path, name="tuned"), *solo(tmp_path, name="again")]
    for number, run in enumerate(runs[3:]):
        change(run, peers__resnet8__weights=f"runs/pretrained-{number % 3}", clip=float(1 + number // 3))
    said = "Not counted is the compute of the earlier runs that tuned and again go on from."
    assert said in compare(runs, base="solo").notes
    assert not any(
        "earlier" in note for note in compare([*solo(tmp_path / "a"), *pair(tmp_path / "a")]).notes
    )


def test_other_options_that_differ_are_named(tmp_path):
    found = compare([*solo(tmp_path), *pair(tmp_path, words=(*PAIR, "clip=1.0", "recipe.flip=0.5"))])
    said = next(note for note in found.notes if "also differ" in note)
    assert "recipe.flip: 0.0 and 0.5" in said and "clip: None and 1.0" in said
    assert not any("differ" in note for note in compare([*solo(tmp_path / "a"), *pair(tmp_path / "b")]).notes)


# Words


def test_the_conclusion_says_what_was_seen_what_would_have_been_and_how_many_intervals_leave_out_0(tmp_path):
    found = compare([*solo(tmp_path), *pair(tmp_path, gains=(0.010, -0.012, 0.008))])
    said = "\n".join(conclusion(found))
    assert re.search(
        r"pair, resnet8_1, kNN 20: \+0\.2 points \(-2\.8 to \+3\.2\): no difference seen; "
        r"one of 4\.0 points or more would probably have been",
        said,
    )
    outside = sum(d.leaves_out_zero for d in found.differences)
    assert f"{outside} of 6 intervals" in said and "about 0.3 of 6 would by chance" in said
    better = compare([*solo(tmp_path / "b"), *pair(tmp_path / "b", gains=(0.024, 0.026, 0.025))])
    said = "\n".join(conclusion(better))
    assert "): better than resnet8" in said and "): worse than resnet8" in said


def test_the_table_marks_in_words_what_leaves_out_0_and_fits_into_110_columns(tmp_path):
    found = compare([*solo(tmp_path), *pair(tmp_path, gains=(0.024, 0.026, 0.025))])
    text = shown(found)
    assert max(map(len, text.splitlines())) <= 110
    assert "• +2.5" in text and "2.0 x compute" in text and "against resnet8" in text and "80.3 %" in text
    outside = sum(d.leaves_out_zero for d in found.differences)
    assert f"• the interval leaves out 0: {outside} of 6" in " ".join(text.split())


def test_points_have_a_sign_and_zero_has_none():
    assert [points(value) for value in (0.003, -0.0149, 0.0001, -0.0004)] == ["+0.3", "-1.5", "0.0", "0.0"]


# Refusals


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("data__limit", 500, r"saw different data \(data.limit: None and 500\)"),
        ("data__mean", [0.1], r"saw different data \(data.mean: 0.31 and \[0.1\]\)"),
        ("hold_out", 0.1, r"saw different data \(hold_out: None and 0.1\)"),
        ("probe__temperature", 0.1, r"were scored differently \(probe.temperature: 0.07 and 0.1\)"),
        ("probe__knn", [20], r"were scored differently \(probe.knn: \[1, 10, 20, 200\] and \[20\]\)"),
    ],
)
def test_other_data_and_another_protocol_are_refused_with_both_values(key, value, said, tmp_path):
    folders = [*solo(tmp_path, range(2)), *pair(tmp_path, range(2))]
    change(folders[2], **{key: value})
    with pytest.raises(InputError, match=f"solo-0 and .*pair-0 {said} and cannot be compared; train"):
        compare(folders)


def test_other_workers_are_no_other_data(tmp_path):
    folders = [*solo(tmp_path, range(2)), *pair(tmp_path, range(2))]
    change(folders[2], data__workers=2, data__resident_bytes=5)
    assert len(compare(folders).differences) == 6


def test_another_rule_for_the_checkpoint_is_refused(tmp_path):
    folders = [*solo(tmp_path, range(2)), *pair(tmp_path, range(2), checkpoint="best")]
    with pytest.raises(InputError, match=r"scored differently \(checkpoint: last and best\)"):
        compare(folders)


def test_runs_of_other_versions_are_compared_with_a_note(tmp_path):
    folders = [*solo(tmp_path, range(2)), *pair(tmp_path, range(2))]
    for folder in folders:
        version = "2.14.0" if "solo" in folder else "2.15.0"
        content = {"packages": {"ssl-kd": "0.1.0", "torch": version}}
        Path(folder, "environment.json").write_text(json.dumps(content))
        if "pair" in folder:
            change(folder, probe__later=True)
    notes = compare(folders).notes
    one, two = folders[0], folders[2]
    assert (
        f"The runs had different versions of torch: 2.14.0 in {one} and 1 more, 2.15.0 in {two} and 1 more."
        in notes
    )
    assert "Not all runs say probe.later: they come from different versions." in notes
    assert not any("ssl-kd" in note for note in notes)


def test_no_backbone_in_common_is_refused(tmp_path):
    folders = [
        *solo(tmp_path),
        write(tmp_path / "large-0", ("method=dogo", "peers=[resnet20,resnet20]"), 0, 0.9),
    ]
    said = r"large-0 and .*solo-0 have no backbone in common \(resnet20, resnet20 and resnet8\)"
    with pytest.raises(InputError, match=said):
        compare(folders)


def test_groups_without_a_seed_in_common_are_refused(tmp_path):
    said = r"without a seed in common \(2, 3 and 0, 1\); runs are paired by seed="
    with pytest.raises(InputError, match=said):
        compare([*solo(tmp_path, range(2)), *pair(tmp_path, (2, 3))])


def test_what_is_no_finished_run_is_refused_in_a_sentence(tmp_path):
    folders = [*solo(tmp_path, range(2)), *pair(tmp_path, range(2))]
    for folder, said in (
        ("runs/nowhere-*", "runs/nowhere-\\* is not there; name folders of finished runs"),
        (str(tmp_path), "is not a run folder: it has no config.yaml"),
        (f"{folders[0]}/config.yaml", "is a file, not a run folder"),
    ):
        with pytest.raises(InputError, match=said):
            compare([*folders, folder])
    with pytest.raises(InputError, match=r'all runs are of one group, "solo"'):
        compare(folders[:2])
    with pytest.raises(InputError, match="name the folders of finished runs"):
        compare([])
    Path(folders[0], "summary.json").unlink()
    with pytest.raises(InputError, match="solo-0 is not finished; the same train command continues it"):
        compare(folders)


def test_runs_whose_scores_or_config_cannot_be_read_are_refused(tmp_path):
    folders = [*solo(tmp_path, range(2)), *pair(tmp_path, range(2))]
    edit(folders[0], peers={"resnet8": {"parameters": 5}})
    with pytest.raises(InputError, match="solo-0 has no scores to compare: the probes need labels"):
        compare(folders)
    Path(folders[0], "summary.json").write_text("{")
    with pytest.raises(InputError, match="solo-0/summary.json cannot be read "):
        compare(folders)
    Path(folders[0], "summary.json").write_text("{}")
    with pytest.raises(InputError, match="solo-0 cannot be compared: its summary.json has no peers"):
        compare(folders)


# The command


@pytest.fixture
def no_page(monkeypatch):
    """The page is made elsewhere, by packages that are optional."""

    def refuse(comparison, folder):
        raise InputError("the report needs its charts: pip install 'ssl-kd[report]'")

    monkeypatch.setattr("ssl_kd.report.comparison_page", refuse, raising=False)


def test_the_command_prints_the_table_and_writes_the_same_json_twice(tmp_path, capsys, no_page, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [*solo(tmp_path), *pair(tmp_path)]
    assert main(folders) == 0
    said = capsys.readouterr().out
    assert "difference from solo in points" in said and "intervals" in said and "trains two networks" in said
    assert str(tmp_path / "comparison.json") in said and "pip install 'ssl-kd[report]'" in said
    first = (tmp_path / "comparison.json").read_bytes()
    assert main([*folders, str(tmp_path / "comparison.json"), f"out={tmp_path / 'b'}", "base=solo"]) == 0
    assert (tmp_path / "b/comparison.json").read_bytes() == first
    found = json.loads(first)
    assert found["base"] == "solo" and found["groups"][1]["relative_compute"] == 2
    assert found["groups"][0]["runs"][2]["config"]["seed"] == 2
    assert found["differences"][0]["seeds"] == [0, 1, 2]
    assert found["conclusion"] and found["notes"]


def test_a_number_that_is_not_there_is_null_in_the_json(tmp_path, no_page, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main([*solo(tmp_path, [0]), *pair(tmp_path, [0])])
    assert json.loads((tmp_path / "comparison.json").read_text())["differences"][0]["low"] is None


def test_the_command_refuses_an_unknown_option(tmp_path):
    with pytest.raises(InputError, match=r'"bass" is not an option of compare; did you mean "base"\?'):
        main([*solo(tmp_path, range(2)), "bass=solo"])


def test_a_run_folder_may_have_an_equals_sign_in_its_name(tmp_path, no_page):
    folders = [*solo(tmp_path, range(2), name="rate=0.1"), *pair(tmp_path, range(2))]
    assert main([*folders, "base=rate=0.1", f"out={tmp_path}"]) == 0


def evaluate(folder: str, probe: str, found: dict, protocol: dict, checkpoint: str = "last") -> None:
    """What a probe of the finished run would have written."""
    path = Path(folder, "eval", f"{probe}.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"checkpoint": checkpoint, "protocol": protocol, "peers": found}))


def test_probes_made_afterwards_are_compared_too(tmp_path):
    runs = [
        write(tmp_path / f"{name}-{seed}", words, seed, 0.8)
        for name, words in (("solo", SOLO), ("pair", PAIR))
        for seed in (0, 1)
    ]
    for folder in runs:
        gain = 0.1 if "pair" in folder else 0.0
        peers = ["resnet8"] if "solo" in folder else ["resnet8_1", "resnet8_2"]
        few = {"few_labels": {"1%": {"mean": 0.3 + gain, "low": 0.2}}}
        evaluate(folder, "few_labels", dict.fromkeys(peers, few), {"draws": 5})
        evaluate(
            folder, "finetune", dict.fromkeys(peers, {"finetune": {"accuracy": 0.5 + gain}}), {"epochs": 3}
        )
        evaluate(folder, "transfer", dict.fromkeys(peers, {"linear": 0.6 + gain}), {"data": "x"})
        evaluate(folder, "linear_sgd", dict.fromkeys(peers, {"linear_sgd": {"accuracy": 0.1}}), {}, "chosen")
    found = {d.score: d.mean for d in compare(runs).differences if d.peer == "resnet8_1"}
    for score in ("few_labels 1%", "finetune", "transfer linear"):
        assert found[score] == pytest.approx(0.1)
    assert "linear_sgd" not in found  # of another checkpoint than the one reported
    evaluate(runs[-1], "finetune", {}, {"epochs": 30})
    with pytest.raises(InputError, match=r"scored differently \(finetune.epochs: 3 and 30\)"):
        compare(runs)
