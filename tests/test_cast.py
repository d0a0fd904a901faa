"""The words by which a method names the peers of a user it does not know, and the peers it adds to them."""

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from ssl_kd.build import build_cohort, build_optimizers, build_terms
from ssl_kd.cast import add_others, expand_all, expand_own, expand_pairs, learners, named
from ssl_kd.cohort import Cohort
from ssl_kd.config import compose
from ssl_kd.errors import InputError
from ssl_kd.peers import stage_at

SMALL = "{name: resnet8, base: 8}"
TWO = f"peers={{a: {{backbone: {SMALL}}}, b: {{backbone: {SMALL}}}}}"
HEAD = "{_target_: ssl_kd.heads.mlp, out: 16, hidden: 16}"
THREE = "{a: resnet8, b: resnet20, c: wrn-10-1}"


def node(text: str) -> DictConfig:
    made = OmegaConf.create(text)
    assert isinstance(made, DictConfig)
    return made


def cast(others: str, peers: str = THREE, template: str = "{}") -> DictConfig:
    """All peers, the user's and the method's."""
    made = named(node(peers), node(template), separate=False)
    add_others(made, node(others), separate=False)
    return made


def cohort_of(config: DictConfig):
    config.classes, config.steps = 10, 100
    return build_cohort(config, (1, 8, 8), build_terms(config))


# What the words stand for


def test_all_in_a_term_stands_for_the_peers_of_the_user_that_learn():
    peers = named(node("{a: resnet8, t: {backbone: resnet8, frozen: true}, b: resnet8}"), node("{}"), False)
    assert learners(peers) == ["a", "b"]
    for given, found in (
        ("all", ["a", "b"]),
        ("[all, leader]", ["a", "b", "leader"]),
        ("[t, all]", ["t", "a", "b"]),
        ("[a]", ["a"]),
    ):
        assert list(expand_all(node(f"{{peers: {given}}}"), learners(peers)).peers) == found


def test_all_with_an_output_stands_for_that_output_of_each():
    term = expand_all(node("{student: x.z, given: [all.z, x.z], reads: all.y}"), ["a", "b"])
    assert term == {"student": "x.z", "given": ["a.z", "b.z", "x.z"], "reads": ["a.y", "b.y"]}
    assert list(cast("{x: {_target_: m.X, reads: [all.z]}}").x.reads) == ["a.z", "b.z", "c.z"]


def test_what_is_made_for_a_peer_may_read_another_that_is_made_for_it():
    peers = cast(
        "{x: {follow: {leader: own, buffers: own}}, y: {_target_: own.Y, reads: own_x.z}}", "{a: resnet8}"
    )
    assert (peers.a_x.follow.leader, peers.a_x.follow.buffers) == ("a", "own")
    assert peers.a_y == {"_target_": "own.Y", "reads": "a_x.z"}  # a module may be called so


def test_a_term_that_says_own_is_made_for_each():
    term = node("{_target_: own.term, student: own.z, teacher: own_key.z, given: [own_queue.rows, t.z]}")
    assert expand_own("term", term, ["a", "b"]) == {
        f"term/{name}": {
            "_target_": "own.term",
            "student": f"{name}.z",
            "teacher": f"{name}_key.z",
            "given": [f"{name}_queue.rows", "t.z"],
        }
        for name in "ab"
    }
    assert list(expand_own("term", node("{_target_: own.term, student: a.z}"), ["a", "b"])) == ["term"]


def test_a_peer_that_says_own_is_made_for_each_learning_peer():
    peers = cast("{x: {_target_: m.X, reads: own.z, more: {deep: [own.y, w.own]}}}")
    assert list(peers) == ["a", "b", "c", "a_x", "b_x", "c_x"]
    assert peers.b_x == {"_target_": "m.X", "reads": "b.z", "more": {"deep": ["b.y", "w.own"]}}


def test_a_peer_that_says_previous_is_made_for_each_but_the_first():
    peers = cast("{x: {_target_: m.X, reads: [own.z, previous.z]}}")
    assert list(peers) == ["a", "b", "c", "b_x", "c_x"]
    assert [list(peers[name].reads) for name in ("b_x", "c_x")] == [["b.z", "a.z"], ["c.z", "b.z"]]
    assert list(cast("{x: {_target_: m.X, reads: previous.z}}", "{a: resnet8}")) == ["a"]


def test_a_frozen_peer_of_the_user_is_nobodys_own_and_nobodys_previous():
    peers = cast(
        "{x: {_target_: m.X, reads: previous.z, own: own.z}}",
        "{a: resnet8, t: {backbone: resnet8, frozen: true}, b: resnet8}",
    )
    assert list(peers) == ["a", "t", "b", "b_x"] and peers.b_x.reads == "a.z"


@pytest.mark.parametrize(
    ("pairs", "found"),
    [
        ("{all: all_x}", {"b": "b_x"}),
        ("{all_x: all, leader_x: leader}", {"b_x": "b", "leader_x": "leader"}),
        ("{all: all}", {"a": "a", "b": "b"}),
        ("{all: leader}", {"a": "leader", "b": "leader"}),
        ("{a: b}", {"a": "b"}),
    ],
)
def test_pairs_are_made_for_each_as_far_as_there_are_both(pairs, found):
    peers = node("{a: 1, b: 1, leader: 1, b_x: 1, leader_x: 1}")
    term = node(f"{{peers: {pairs}}}")
    expand_pairs(term, ["a", "b"], peers)
    assert term.peers == found


@pytest.mark.parametrize("name", ["all", "own", "previous"])
def test_a_peer_cannot_be_called_what_stands_for_others(name):
    with pytest.raises(InputError, match=f'"{name}" cannot name a peer: it stands for others in a method'):
        compose([f"peers={{{name}: resnet8, b: resnet8}}"])


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["method=ffsd", "peers={leader: resnet8, a: resnet8}"], "leader"),
        (["method=ssl_kd", "parts=[ema]", "peers={a_ema: resnet8, a: resnet8}"], "a_ema"),
    ],
)
def test_a_peer_cannot_be_called_as_one_that_the_method_adds(words, name):
    with pytest.raises(InputError, match=f'"{name}" cannot name a peer: the method has one of that name'):
        compose(words)
    assert name in compose(["method=dogo", words[-1]]).peers


# What an added peer is made of


def test_a_follower_is_what_its_leader_is_but_for_its_learning():
    peers = cast(
        "{ema: {follow: {leader: own, momentum: 0.5}}}",
        "{a: {backbone: {name: resnet8, base: 4}, stages: {m: 0.5}, lr_scale: 2.0, weights: w, optim: {}}}",
        template="{heads: {z: {_target_: m.Z, out: 3}}, per_view: true}",
    )
    assert peers.a_ema == {
        "backbone": peers.a.backbone,
        "stages": {"m": 0.5},
        "heads": {"z": {"_target_": "m.Z", "out": 3}},
        "per_view": True,
        "follow": {"leader": "a", "momentum": 0.5},
    }


def test_a_word_about_a_peer_of_the_user_reaches_its_follower():
    words = ["method=ssl_kd", "parts=[ema]", TWO]
    config = compose(
        [*words, "peers.a.heads.projection.out=64", "peers.b.backbone.base=4", "peers.b.lr_scale=3"]
    )
    outs = [config.peers[name].heads.projection.out for name in ("a", "a_ema", "b", "b_ema")]
    assert outs == [64, 64, 128, 128]
    assert config.peers.b_ema.backbone == {
        "_target_": "ssl_kd.backbones.create",
        "name": "resnet8",
        "base": 4,
    }
    assert "lr_scale" not in config.peers.b_ema


def test_every_learning_peer_learns_from_its_own_follower_and_the_leader_from_none():
    config = compose(["method=ssl_kd", "parts=[fusion,ema]", "peers={a: resnet8, b: resnet8}"])
    assert config.terms.ema.peers == {"a": "a_ema", "b": "b_ema"}
    assert cohort_of(config).trainable == ["a", "b", "leader", "fusion", "together", "maps"]


def test_an_added_peer_without_a_backbone_takes_a_copy_of_the_first_ones():
    config = compose(["method=ffsd", TWO, "peers.a.backbone.base=4", "peers.leader.backbone.base=2"])
    assert [config.peers[name].backbone.base for name in ("a", "b", "leader")] == [4, 8, 2]
    assert cast("{x: {heads: {}}}").x.backbone.name == "resnet8"
    assert "backbone" not in cast("{x: {_target_: m.X}}").x


@pytest.mark.parametrize("place", ["others", "peers"])
@pytest.mark.parametrize("value", ["resnet20", "{name: resnet20}"])
def test_the_backbone_of_an_added_peer_is_changed_under_either_name(place, value):
    config = compose(["method=ffsd", TWO, f"{place}.leader.backbone={value}"])
    assert config.peers.leader.backbone == {"_target_": "ssl_kd.backbones.create", "name": "resnet20"}
    assert config.peers.a.backbone.name == "resnet8" and list(config.peers.leader.heads) == [
        "logits",
        "trans",
    ]


def test_a_word_about_others_is_for_all_of_the_kind_and_one_about_peers_for_one():
    three = "peers={a: resnet8, b: resnet8, c: resnet8}"
    config = compose(
        [
            "method=ffsd",
            three,
            "others.decoder.lr_scale=0.5",
            "peers.b_decoder.lr_scale=0.1",
            "peers.leader.lr_scale=2",
        ]
    )
    scales = {name: peer.lr_scale for name, peer in config.peers.items() if "lr_scale" in peer}
    assert scales == {"b_decoder": 0.1, "c_decoder": 0.5, "leader": 2}


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("peers.ledaer.lr_scale=2", 'there is no peer "ledaer"; did you mean "leader"?'),
        ("others.ledaer.lr_scale=2", '"others.ledaer" is not an option; did you mean "others.leader"?'),
        ("others.leader.lr_scael=2", '"peers.leader.lr_scael" is not an option; did you mean "lr_scale"?'),
    ],
)
def test_a_slip_in_the_name_of_an_added_peer_gets_the_nearest(word, says):
    with pytest.raises(InputError) as error:
        compose(["method=ffsd", TWO, word])
    assert says in str(error.value)


def test_a_user_can_add_a_peer_to_any_method():
    words = [f"others.helper={{heads: {{projection: {HEAD}}}}}", "terms.nt_xent.peers=[all,helper]"]
    config = compose(["method=simclr", TWO, *words])
    assert list(config.terms.nt_xent.peers) == ["a", "b", "helper"]
    assert cohort_of(config).peers["helper"].heads["projection"](torch.ones(2, 32)).shape == (2, 16)


# Stages


@pytest.mark.parametrize(
    ("share", "of"),
    [
        (0.33, {3: 1, 4: 1, 5: 2}),
        (0.67, {3: 2, 4: 3, 5: 3}),
        (1.0, {3: 3, 4: 4, 5: 5}),
        (0.01, {3: 1, 4: 1, 5: 1}),
    ],
)
def test_a_stage_is_named_by_its_share_of_the_depth(share, of):
    for count, number in of.items():
        assert stage_at(share, {f"s{i}": 8 for i in range(1, count + 1)}, "a") == f"s{number}"


@pytest.mark.parametrize("place", ["s9", 0, 0.0, 1.5, -0.3, True, None])
def test_what_is_no_stage_is_refused_with_those_that_are(place):
    with pytest.raises(InputError) as error:
        stage_at(place, {"s1": 8, "s2": 8}, "a")
    assert str(error.value) == (
        f'"a" has no stage "{place}"; its stages: s1, s2; a number between 0 and 1 is a share of the depth'
    )
    with pytest.raises(InputError, match="its stages: none"):
        stage_at(place, {}, "a")


def test_exits_stand_where_the_stages_of_each_network_are():
    config = compose(["method=exits", "peers={a: resnet8, b: resnet18}"])
    peers = cohort_of(config).peers
    assert [peers["a"].reads[head] for head in ("exit1", "exit2")] == ["stage1", "stage2"]
    assert [peers["b"].reads[head] for head in ("exit1", "exit2")] == ["stage1", "stage3"]


def test_a_stage_may_be_given_by_its_name_instead():
    words = ["peers.a.heads.exit1.reads=stage2", "peers.b.stages.map2=stage1"]
    config = compose(["method=ssl_kd", "parts=[exits,fusion,shift]", TWO, *words])
    peers = cohort_of(config).peers
    assert peers["a"].reads["exit1"] == "stage2" and peers["b"].stages["map2"] == "stage1"
    for word in ("peers.a.heads.exit1.reads=stage9", "peer.stages.map1=stage9"):
        with pytest.raises(InputError) as error:
            cohort_of(compose(["method=ssl_kd", "parts=[exits,fusion,shift]", TWO, word]))
        assert '"stage9"' in str(error.value) and "stage1, stage2, stage3" in str(error.value)


# Parts, terms and heads


def test_the_order_in_which_parts_are_named_does_not_matter():
    for parts in (["fusion", "shift"], ["exits", "deepest"], ["peers", "ema"]):
        one, other = (
            compose(["method=ssl_kd", TWO, f"parts=[{','.join(named)}]"]) for named in (parts, parts[::-1])
        )
        assert list(one.peers) == list(other.peers) and list(one.terms) == list(other.terms)
        assert one.peers == other.peers and one.terms == other.terms
    cohort_of(compose(["method=ssl_kd", TWO, "parts=[shift,fusion]"]))


def test_one_part_may_be_named_without_brackets_and_twice():
    for parts in ("peers", "[peers]", "[peers,peers]"):
        assert list(compose(["method=ssl_kd", TWO, f"parts={parts}"]).terms) == ["nt_xent", "kl"]
    assert list(compose(["method=ssl_kd", TWO, "parts=[]"]).terms) == ["nt_xent"]


def test_a_term_that_is_set_to_null_is_gone():
    for word in ("terms.kl=null", "~terms.kl"):
        config = compose(["method=dcm", TWO, word])
        assert list(config.terms) == ["ce", "ce1", "ce2"]
        assert [term.name for term in build_terms(config)] == ["ce", "ce1", "ce2"]


def test_a_head_that_only_a_later_peer_reads_is_built_and_one_that_nobody_reads_is_refused():
    words = ["method=simclr", TWO, f"peer.heads.more={HEAD}"]
    reader = "others.x={_target_: ssl_kd.methods.ffsd.Consensus, reads: [all.more]}"
    assert list(cohort_of(compose([*words, reader])).peers["a"].heads) == ["projection", "more"]
    with pytest.raises(InputError, match='no term reads the head "more" of "a"'):
        cohort_of(compose(words))


def test_a_peer_reads_those_before_it_alone():
    reader = "others.x={_target_: ssl_kd.methods.ffsd.Consensus, reads: [%s]}"
    for address, says in (
        ("y.projection", '"x" reads "y.projection", and the peers before it are: a, b'),
        ("a.nothing", '"x" reads "a.nothing", but a has: embedding, projection'),
    ):
        with pytest.raises(InputError) as error:
            cohort_of(compose(["method=simclr", TWO, reader % address]))
        assert says in str(error.value)


def test_a_decoder_of_a_network_that_is_not_there_is_left_out_with_its_edges():
    config = compose(["method=ffsd", f"peers={{a: {{backbone: {SMALL}}}}}"])
    assert list(config.peers) == ["a", "leader", "fusion", "logits", "maps", "leader_decoder"]
    config.steps = 100
    links = {term.name: [link.student for link in term.links()] for term in build_terms(config)}
    assert "kd" not in links and "self" not in links and "diversity" not in links
    assert links["decode"] == ["leader_decoder.map1", "leader_decoder.map2"]


def test_a_follower_sees_the_views_of_its_leader_and_may_keep_its_own_buffers():
    words = ["method=ssl_kd", "parts=[ema]", "peers={a: resnet8, b: resnet8}", "separate_views=true"]
    config = compose([*words, "others.ema.follow.buffers=own"])
    assert config.peers.a_ema.views == config.peers.a.views == "views_a"
    assert config.peers.a_ema.follow == {"leader": "a", "momentum": 0.99, "buffers": "own"}


def test_no_parts_said_are_the_parts_of_the_method():
    assert compose(["method=ssl_kd", "parts=null"]).terms == compose(["method=ssl_kd"]).terms


def test_an_added_peer_is_like_the_first_that_learns():
    peers = "peers={t: {backbone: resnet20, frozen: true}, a: resnet8, b: resnet8}"
    assert compose(["method=ffsd", peers]).peers.leader.backbone.name == "resnet8"


def test_an_option_inside_a_group_that_an_added_peer_does_not_have_yet_can_be_given():
    words = ["method=ffsd", "peers={a: resnet8, b: resnet8}"]
    assert compose([*words, "others.leader.optim.rate=0.1"]).peers.leader.optim == {"rate": 0.1}
    config = compose([*words, "others.leader.optim.rat=0.1"])
    with pytest.raises(InputError, match='"peers.leader.optim.rat" is not an option; did you mean "rate"'):
        build_optimizers(config, Cohort({"leader": torch.nn.Linear(2, 2)}))
