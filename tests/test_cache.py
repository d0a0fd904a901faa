"""Frozen peers' outputs, computed once for each image: the same numbers, and only where they stay."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from ssl_kd import cache as cached
from ssl_kd.build import build_cache
from ssl_kd.cache import Cache
from ssl_kd.cohort import Cohort
from ssl_kd.config import compose
from ssl_kd.data import Arrays, Batches, Fixed
from ssl_kd.encoder import Encoder
from ssl_kd.errors import InputError
from ssl_kd.timing import measure
from ssl_kd.train import main
from ssl_kd.training import build

PEERS = "{teacher: {backbone: resnet8, frozen: true}, a: resnet8}"
KD = [
    "method=kd", f"peers={PEERS}", "terms.kl.student=a.logits", "recipe=plain", "data=digits", "epochs=2",
    "batch_size=64", "data.limit=300", "precision=float32", "probe.linear=false", "probe.baselines=false",
    "log_every=1",
]  # fmt: skip
CACHE = "peers.teacher.cache=true"

pytestmark = pytest.mark.usefixtures("own_folder")


def lines(folder: str) -> list[dict]:
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


def losses(folder: str) -> list[float]:
    return [line["loss"] for line in lines(folder) if "loss" in line]


@pytest.mark.parametrize(
    "more",
    [[], ["accumulate=2"], ["accumulate=2", "grad_cache=true"], ["precision=bfloat16"]],
    ids=["whole", "parts", "grad_cache", "bfloat16"],
)
def test_a_run_with_a_cache_is_the_run_without(more, capsys):
    words = [*KD, *more, "health.every=4", "epochs=1"]
    assert main([*words, "run=plain"]) == 0
    capsys.readouterr()
    assert main([*words, CACHE, "run=kept"]) == 0
    assert "the outputs of teacher for 300 images are computed once and kept" in capsys.readouterr().out
    assert losses("kept") == pytest.approx(losses("plain"), rel=1e-2 if "bfloat16" in str(more) else 1e-5)
    looks = [next(line["health"] for line in lines(run) if "health" in line) for run in ("plain", "kept")]
    assert looks[0].keys() == looks[1].keys() and "rank/teacher" in looks[0]
    for name, value in looks[0].items():
        assert looks[1][name] == pytest.approx(value, rel=0.1 if "bfloat16" in str(more) else 1e-3), name


def test_the_peer_sees_every_image_once_and_runs_in_no_step():
    parts = build(compose([*KD, CACHE]))
    rows = []
    parts.own.peers["teacher"].register_forward_hook(
        lambda m, args, said: rows.append(said["logits"].shape[1])
    )
    parts.cache.fill(parts.batches.once())
    assert sum(rows) == 5 * 64 and {*parts.cache.tables["teacher"]} == {"logits", "embedding"}
    batch = next(parts.batches(3))
    said = parts.cohort(batch, parts.cache(batch))
    assert len(rows) == 5 and not said["teacher"]["logits"].requires_grad
    fresh = parts.cohort(batch)["teacher"]
    for key, value in said["teacher"].items():
        assert torch.allclose(value, fresh[key], rtol=0, atol=1e-5)


def test_a_killed_run_with_a_cache_continues_as_if_nothing_had_happened(monkeypatch):
    from tests.test_train import curve, killed_after, weights

    words = [*KD, CACHE]
    main([*words, "run=whole"])
    killed_after(7, monkeypatch, [*words, "run=cut"])
    saved = Path("cut/checkpoints/last/cohort.safetensors")
    assert b"teacher" not in saved.read_bytes()
    assert main([*words, "run=cut"]) == 0
    assert curve("cut") == curve("whole") and weights("cut") == weights("whole")


def test_a_frozen_network_is_no_untrained_one():
    main([*KD, "epochs=1", "probe.baselines=true", "run=a"])
    summary = json.loads(Path("a/summary.json").read_text())
    assert {*summary["peers"]} == {"teacher", "a"} and {*summary["baselines"]["untrained"]} == {"a"}


def test_timing_counts_the_looking_up_and_not_the_network():
    timing = measure(build(compose([*KD, CACHE, "accumulate=2"])), 2)
    assert ("cache", "") in timing.parts and ("forward", "teacher") not in timing.parts


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["recipe=supervised"], "the views of Supervised are not a function of the image alone"),
        (["recipe=simclr"], "take recipe=plain, or leave cache out"),
        (["peers.a.cache=true"], "peers.a.cache: only what a frozen peer says stays the same"),
        (["peers.teacher.cache=1"], 'peers.teacher.cache must be true or false, and "1" is not'),
        (["peers.teacher.cash=true"], 'did you mean "cache"?'),
    ],
)
def test_what_would_change_is_refused_in_one_sentence(words, says, capsys):
    assert main([*KD, CACHE, *words, "run=runs/a"]) == 2
    said = capsys.readouterr().err
    assert says in said and len(said.splitlines()) == 1 and not Path("runs").exists()


def test_a_frozen_peer_that_reads_others_is_refused():
    config = compose([*KD, CACHE])
    peers = {"a": Encoder(nn.Flatten(), {}), "teacher": Encoder(nn.Identity(), {}, sees=["a.embedding"])}
    with pytest.raises(InputError, match='"teacher" reads what other peers say, which changes; leave cache'):
        build_cache(config, Cohort(peers, frozen=["teacher"]), Fixed(8), 4)


class Maps(nn.Module):
    """Images (N, 1, H, W) -> their pixels, and themselves as the stage "map"."""

    def forward(self, images):
        return images.flatten(1)

    def forward_stages(self, images, stages):
        return images.flatten(1), {"map": images}


class Late(nn.Module):
    """Reads the first peer's map and says its mean."""

    reads = ("teacher.map",)

    def forward(self, batch, seen):
        return {"mean": seen["teacher"]["map"].mean((2, 3, 4))}


def batches(count: int = 10) -> list[dict]:
    source = Arrays(torch.randint(256, (count, 1, 4, 4), dtype=torch.uint8).numpy(), None, ())
    return [Fixed(6)(raw, 0) for raw in Batches(source, 4).once()]


def cohort() -> Cohort:
    teacher = Encoder(Maps(), {}, stages=["map"])
    return Cohort(
        {"teacher": teacher, "late": Late()}, frozen=["teacher"], returns={"teacher": [], "late": ["mean"]}
    )


@pytest.mark.parametrize("room", [0, 1 << 20])
def test_what_later_peers_read_is_kept_though_no_term_reads_it(room, monkeypatch):
    monkeypatch.setattr(cached, "RESIDENT_BYTES", room)
    config, ours = compose([*KD, CACHE]), cohort()
    kept = build_cache(config.copy(), _with_a(ours), Fixed(6), 10)
    kept.fill(batches())
    assert {*kept.tables["teacher"]} == {"map"} and kept.bytes == 10 * 36 * 4


def _with_a(ours: Cohort) -> Cohort:
    peers = {**dict(ours.peers.items()), "a": Encoder(nn.Flatten(), {})}
    return Cohort(peers, frozen=["teacher"], returns={"teacher": [], "late": ["mean"], "a": []})


def test_rows_are_found_by_their_image():
    ours, given = cohort(), batches()
    kept = Cache(ours, {"teacher": ["map", "embedding"]}, 10)
    kept.fill(given)
    mixed = {"index": torch.tensor([7, 0, 9]), "views": torch.zeros(1, 3, 1, 6, 6)}
    whole = torch.cat([batch["views"] for batch in given], 1)[:, :10]
    said = kept(mixed)["teacher"]
    assert torch.equal(said["map"], whole[:, [7, 0, 9]])
    assert torch.equal(ours(mixed, kept(mixed))["late"]["mean"], whole[:, [7, 0, 9]].mean((2, 3, 4)))


def test_every_image_is_in_the_batches_of_once_and_shared_by_the_processes():
    source = Arrays(torch.zeros(10, 1, 4, 4, dtype=torch.uint8).numpy(), None, ())
    shares = [[raw["index"] for raw in Batches(source, 4, rank=r, world=2).once()] for r in (0, 1)]
    seen = torch.stack([torch.stack(share) for share in shares])  # (processes, batches, rows)
    assert seen.transpose(0, 1).flatten().tolist() == [*range(10), 0, 1]


def test_no_room_is_said_in_one_sentence():
    with pytest.raises(InputError, match="GiB, and there is no room for them; leave cache out"):
        Cache(cohort(), {"teacher": None}, 1 << 50).fill(batches())


def test_an_output_without_rows_is_refused():
    class Odd(nn.Module):
        def forward(self, batch, seen):
            return {"one": torch.zeros(1)}

    with pytest.raises(InputError, match='"odd" cannot be cached: its "one" has no row for each image'):
        Cache(Cohort({"odd": Odd()}, frozen=["odd"]), {"odd": None}, 10).fill(batches())
