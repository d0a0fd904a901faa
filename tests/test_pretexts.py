"""Pretext tasks: each by itself, each for any peer, in any mix, and under every distillation."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from ssl_kd.config import compose
from ssl_kd.errors import InputError
from ssl_kd.evaluate import classifiers
from ssl_kd.groups import choices
from ssl_kd.monitor import Monitor, Watch
from ssl_kd.optim import param_groups
from tests.test_methods import ONE, SMALL, TWO, alike, built, once

PRETEXTS = choices("pretext")
PROJECTING = [name for name in PRETEXTS if name not in ("rotation", "supervised")]


def pair(a: str, b: str) -> str:
    return f"peers={{a: {{backbone: {SMALL}, pretext: {a}}}, b: {{backbone: {SMALL}, pretext: {b}}}}}"


def terms(*words: str) -> dict[str, list[str]]:
    """Term -> who learns by it."""
    config = compose(list(words))
    return {str(name): [str(peer) for peer in term.get("peers", ())] for name, term in config.terms.items()}


def all_learn(made, accelerator) -> None:
    assert torch.isfinite(once(made, accelerator).loss)
    for name, parameter in made.cohort.named_parameters():
        learns = name.split(".")[1] in made.cohort.trainable
        assert (parameter.grad is not None and bool(parameter.grad.any())) == learns, name


# Any mix


def test_there_are_the_pretexts_that_are_promised():
    assert set(PRETEXTS) == {
        "simclr", "dcl", "simsiam", "byol", "moco", "barlow_twins", "vicreg", "dino", "rotation",
        "supervised", "supcon",
    }  # fmt: skip


@pytest.mark.parametrize("method", ["dogo", "exits"])
def test_as_many_peers_as_pretexts_learn_each_by_its_own_and_all_from_each_other(method, accelerator):
    peers = ", ".join(f"{name}: {{backbone: {SMALL}, pretext: {name}}}" for name in PRETEXTS)
    made = built(f"method={method}", f"peers={{{peers}}}")
    own = {(link.name.split("/")[0], link.student.split(".")[0]) for link in made.links}
    assert {("dino", "dino"), ("turn", "rotation"), ("ce", "supervised"), ("info_nce", "moco")} <= own
    taught = {(link.student, link.teacher) for link in made.links if link.name.startswith("kl/")}
    assert method == "exits" or len(taught) == len(PRETEXTS) * (len(PRETEXTS) - 1)
    all_learn(made, accelerator)


@pytest.mark.parametrize(
    ("a", "b"), [("simclr", "rotation"), ("byol", "supcon"), ("dino", "moco"), ("vicreg", "simsiam")]
)
@pytest.mark.parametrize(
    "words",
    [
        ["method=fusion"],
        ["method=ssl_kd", "parts=[peers,exits,deepest,fusion,shift,ema]"],
        ["method=dml", "recipe=simclr"],  # which makes two views
        ["method=ffsd", "recipe=simclr"],
        ["method=dcm", "recipe=simclr"],
    ],
    ids=" ".join,
)
def test_two_pretexts_learn_together_under_every_distillation(a, b, words, accelerator):
    all_learn(built(*words, pair(a, b)), accelerator)


@pytest.mark.parametrize("pretext", PROJECTING)
def test_dogo_of_one_peer_is_its_pretext_alone_bit_for_bit(pretext, accelerator):
    alone = f"method={pretext}" if pretext != "moco" else "method=simclr"
    runs = [built(*words, f"pretext={pretext}", ONE) for words in ([alone], ["method=dogo"])]
    losses = [once(made, accelerator).loss for made in runs]
    assert torch.equal(*losses) and alike(*runs)


def test_moco_as_a_pretext_is_moco_as_a_method(accelerator):
    names = {"a": "query", "a_key": "key", "a_queue": "queue"}
    backbones = [f"peers.{name}.backbone={SMALL}" for name in ("query", "key")]
    ours, theirs = built("method=simclr", "pretext=moco", ONE), built("method=moco", *backbones)
    assert list(ours.cohort.peers) == list(names)
    for name, other in names.items():
        ours.cohort.peers[name].load_state_dict(theirs.cohort.peers[other].state_dict())
    losses = [once(made, accelerator).loss for made in (ours, theirs)]
    assert torch.equal(*losses)


def test_the_published_pair_of_dogo_compares_projections_with_predictions(accelerator):
    words = ["method=dogo_mixed", *(f"peers.{name}.backbone={SMALL}" for name in ("simclr", "simsiam"))]
    made = built(*words)
    assert {(link.name, link.student, link.teacher) for link in made.links} == {
        ("nt_xent/simclr", "simclr.projection", ""),
        ("simsiam/simsiam<-simsiam", "simsiam.prediction", "simsiam.projection"),
        ("kl/simclr<-simsiam", "simclr.projection", "simsiam.prediction"),
        ("kl/simsiam<-simclr", "simsiam.prediction", "simclr.projection"),
    }
    all_learn(made, accelerator)
    weights = compose([*words, "preset=reference"]).terms.kl.weight
    assert dict(weights) == {"simclr<-simsiam": 100.0, "simsiam<-simclr": 1.0}


# Who has which


def test_a_peer_has_the_pretext_of_the_method_unless_it_says_otherwise():
    assert terms("method=dogo", TWO) == {"nt_xent": ["a", "b"], "kl": ["a", "b"]}
    assert terms("method=dogo", TWO, "pretext=dcl") == {"dcl": ["a", "b"], "kl": ["a", "b"]}
    mixed = {"nt_xent": ["a"], "dcl": ["b"], "kl": ["a", "b"]}
    assert terms("method=dogo", TWO, "peers.b.pretext=dcl") == mixed
    assert terms("method=dogo", pair("vicreg", "dcl")) == {"vicreg": ["a"], "dcl": ["b"], "kl": ["a", "b"]}


def test_a_peer_may_learn_by_several_or_by_none():
    words = ["method=dogo", TWO, "peers.a.pretext=[simclr,rotation]", "peers.b.pretext=null"]
    assert terms(*words) == {"nt_xent": ["a"], "turn": ["a"], "kl": ["a", "b"]}
    assert list(compose(words).peers.b.heads) == ["projection"]


def test_frozen_peers_have_the_heads_and_followers_those_of_their_leader():
    peers = (
        "peers={a: {backbone: resnet8, pretext: byol}, b: {backbone: resnet8, follow: {leader: a}}, "
        "c: {backbone: resnet8, frozen: true, pretext: vicreg}}"
    )
    config = compose(["method=dogo", peers])
    assert list(config.peers) == ["a", "b", "c", "a_target"] and "vicreg" not in config.terms
    assert config.peers.a.heads == config.peers.b.heads == config.peers.a_target.heads
    assert config.peers.c.heads.projection.out == 512


def test_the_leader_learns_as_the_peers_do_and_the_fusion_contrasts():
    found = terms("method=fusion", TWO, "pretext=barlow_twins")
    assert found["barlow_twins"] == ["a", "b", "leader"] and found["nt_xent"] == ["fusion"]
    found = terms("method=fusion", TWO, "others.leader.pretext=dcl")
    assert found["nt_xent"] == ["a", "b", "fusion"] and found["dcl"] == ["leader"]


def test_what_the_user_says_goes_before_the_pretext_and_that_before_the_method():
    words = ["method=dogo", pair("simclr", "vicreg")]
    heads = [peer.heads.projection.out for peer in compose(words).peers.values()]
    assert heads == [128, 512]
    config = compose([*words, "peer.heads.projection.out=64", "terms.vicreg.loss.covariance=2.0"])
    assert [peer.heads.projection.out for peer in config.peers.values()] == [64, 64]
    assert config.terms.vicreg.loss.covariance == 2.0
    only = compose(["method=dogo", pair("simclr", "simsiam"), "peer.heads.prediction.hidden=32"])
    assert "prediction" not in only.peers.a.heads and only.peers.b.heads.prediction.hidden == 32
    words = ["others.target.follow.momentum=0.9", "peers.a_target.per_view=true"]
    config = compose(["method=byol", ONE, *words])
    assert config.peers.a_target.follow.momentum == 0.9 and config.peers.a_target.per_view


def test_nothing_of_the_word_is_left_in_a_composed_config():
    config = compose(["method=fusion", pair("byol", "dino")])
    assert "pretext" not in OmegaConf.to_yaml(config)


def test_a_pretext_of_the_users_own_is_found_and_is_as_good(tmp_path, monkeypatch):
    (tmp_path / "configs/pretext").mkdir(parents=True)
    text = Path(__file__).parent.parent.joinpath("configs/pretext/simclr.yaml").read_text()
    (tmp_path / "configs/pretext/mine.yaml").write_text(text.replace("nt_xent:", "mine:", 1))
    monkeypatch.chdir(tmp_path)
    assert terms("method=dogo", pair("mine", "simclr")) == {"mine": ["a"], "nt_xent": ["b"], "kl": ["a", "b"]}


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("terms: {nt_xent: {peers: all}}", 'the pretexts simclr and mine both have terms called "nt_xent"'),
        ("term: {}", '"term" is not part of a pretext; did you mean "terms"?'),
        ("[1, 2]", "mine.yaml must have groups of options: peer, others, terms"),
        ("peer: 3", "mine.yaml must have groups of options: peer, others, terms"),
        ("peer: {", "mine.yaml cannot be read"),
    ],
)
def test_a_file_that_is_no_pretext_is_refused_in_one_sentence(file, says, tmp_path, monkeypatch):
    (tmp_path / "configs/pretext").mkdir(parents=True)
    (tmp_path / "configs/pretext/mine.yaml").write_text(file)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        compose(["method=dogo", pair("simclr", "mine")])
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["pretext=simclear"], 'there is no pretext "simclear"; did you mean "simclr"?'),
        (["pretext=3"], 'pretext must be a name, a list of names or null, and "3" is not'),
        ([TWO, "peers.a.pretext={x: 1}"], "pretext must be a name, a list of names or null"),
        ([pair("simclr", "{x: 1}")], "peers.b.pretext must be a name"),
        ([TWO, "peers.c.pretext=byol"], 'there is no peer "c"; there are: a, b'),
        ([TWO, "peers.a.pretex=byol"], "peers.a.pretex"),
        ([TWO, "pretext=dcl", "terms.nt_xent.weight=2.0"], '"terms.nt_xent" is not an option'),
        ([TWO, "peer.heads.predicton.out=3"], '"peer.heads.predicton" is not an option'),
        (["method=fusion", TWO, "peers.leader.pretext=byol"], "say others.NAME.pretext"),
        (["method=moco", "peers.queue.pretext=byol"], "peers.queue"),
    ],
)
def test_a_pretext_that_cannot_be_meant_is_refused_in_one_sentence(words, says):
    with pytest.raises(InputError) as error:
        built(*words)
    assert says in str(error.value) and "\n" not in str(error.value)


# What else is to know of them


def test_a_projection_that_contrasts_classes_is_no_classifier():
    config = compose(["method=dogo", pair("supcon", "supervised")])
    assert classifiers(config) == {"b": "logits"}


@pytest.mark.parametrize("pretext", ["simsiam", "byol", "dino", "rotation"])
def test_edges_are_held_against_what_a_network_learns_from_itself_too(pretext, accelerator):
    made = built("method=dogo", pair(pretext, "simclr"))
    monitor = Monitor(made.cohort, made.links, Watch(every=1), lambda line: None, print)
    batch, scalars = made.batches[0], {}
    outputs = made.cohort(batch)
    for term in made.terms:
        scalars |= term(outputs, batch, made.config.steps - 1)
    monitor.weigh(0, scalars)
    assert {"cosine/kl/a<-b", "cosine/kl/b<-a"} <= set(monitor._cosines)


def test_followers_centres_and_queues_have_nothing_to_optimise():
    made = built("method=dogo", pair("dino", "moco"))
    groups = param_groups(made.cohort, 0.1, {}, made.cohort.trainable, None)
    assert {group["peer"] for group in groups} == {"a", "b"}
    assert list(made.cohort.peers) == ["a", "b", "a_momentum_teacher", "a_centre", "b_key", "b_queue"]
