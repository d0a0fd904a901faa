"""From words to a config: what is chosen, what is filled in, what is refused."""

import pytest
from omegaconf import OmegaConf

from ssl_kd.config import compose
from ssl_kd.errors import InputError
from ssl_kd.groups import choices
from ssl_kd.identity import differences, run_name


def test_a_list_of_backbones_is_a_cohort_of_that_many_peers():
    config = compose(["peers=[resnet20,resnet20,wrn-16-2,mobilenetv3_small_100]"])
    assert list(config.peers) == ["resnet20_1", "resnet20_2", "wrn-16-2", "mobilenetv3_small_100"]
    assert config.peers["wrn-16-2"].backbone.name == "wrn-16-2"
    assert all(list(peer.heads) == ["projection"] for peer in config.peers.values())
    assert list(config.terms.kl.peers) == list(config.peers)


def test_a_mapping_names_the_peers_and_a_key_edits_one():
    config = compose(["peers={small: resnet20, large: resnet56}", "peers.large.heads.projection.out=64"])
    assert config.peers.large.backbone.name == "resnet56"
    assert (config.peers.small.heads.projection.out, config.peers.large.heads.projection.out) == (128, 64)


def test_frozen_peers_and_followers_are_not_among_the_learners():
    config = compose(["peers={a: resnet20, b: {backbone: resnet20, frozen: true}}", "terms.nt_xent.reads=x"])
    assert list(config.terms.nt_xent.peers) == ["a"]


def test_what_suits_the_data_comes_before_the_words_of_the_user():
    assert (compose([]).epochs, compose([]).recipe.flip) == (20, 0.0)
    config = compose(["epochs=3", "recipe.flip=0.5"])
    assert (config.epochs, config.recipe.flip) == (3, 0.5)
    assert compose(["data=cifar10"]).recipe.flip == 0.5


def test_a_method_chooses_its_recipe_and_the_user_may_choose_another():
    assert "Supervised" in compose(["method=dml"]).recipe._target_
    assert "Supervised" not in compose(["method=dml", "recipe=simclr"]).recipe._target_


def test_dogos_reference_preset_is_the_published_setting():
    config = compose(["method=dogo", "preset=reference", "data=cifar10"])
    assert config.terms.kl.weight == 100 and config.terms.kl.loss.reduction == "element"
    assert config.peers.resnet20_1.per_view and config.peers.resnet20_1.views == "views_resnet20_1"
    assert list(config.recipe.streams) == ["resnet20_1", "resnet20_2"]
    assert OmegaConf.to_container(config.optim) == {
        "decay": "all",
        "optimizer": {
            "_target_": "torch.optim.Adam",
            "betas": [0.9, 0.999],
            "eps": 1e-8,
            "amsgrad": False,
            "weight_decay": 1e-6,
        },
        "rate": 3e-4,
        "unnormalised": 1.0,
    }


def test_a_preset_comes_before_the_words_of_the_user():
    assert compose(["terms.kl.weight=7.0", "preset=reference"]).terms.kl.weight == 7.0


def test_a_weight_per_direction_can_be_given_on_the_command_line():
    config = compose(["peers={a: resnet20, b: resnet20}", 'terms.kl.weight={"a<-b": 1.0, "b<-a": 0.1}'])
    assert config.terms.kl.weight["b<-a"] == 0.1


def test_a_part_switched_off_is_removed():
    assert list(compose(["~terms.kl"]).terms) == ["nt_xent"]


def test_the_run_folder_is_named_after_what_it_computes():
    folder = ["data=folder", "data.root=photos"]
    loading = [[*folder], [*folder, "data.workers=3", "data.resident_bytes=0"]]
    assert len({run_name(compose(words)) for words in loading}) == 1
    assert differences(*map(compose, loading)) == []
    names = [run_name(compose(words)) for words in ([], ["threads=1"], ["epochs=3"])]
    assert names[0] == names[1] != names[2] and names[0].startswith("runs/dogo-digits-0-")


def test_a_place_on_disk_is_made_absolute_and_a_name_on_the_hub_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert compose(["data=hub", "data.path=owner/name"]).data.path == "owner/name"
    (tmp_path / "here").mkdir()
    assert compose(["data=hub", "data.path=here"]).data.path == str(tmp_path / "here")
    assert compose(["data=arrays", "data.path=x.npz"]).data.path == str(tmp_path / "x.npz")
    assert compose(["labels.file=l.npy"]).labels.file == str(tmp_path / "l.npy")


def test_differences_name_the_key_and_both_values():
    assert differences(compose(["epochs=2"]), compose(["epochs=3", "threads=1"])) == [
        "epochs: 2 there, 3 here"
    ]


def test_a_folder_of_the_users_own_configs_is_found(tmp_path, monkeypatch):
    (tmp_path / "configs" / "method").mkdir(parents=True)
    (tmp_path / "configs" / "method" / "mine.yaml").write_text(
        "# @package _global_\nepochs: 17\npeers: [resnet8]\n"
    )
    monkeypatch.chdir(tmp_path)
    assert "mine" in choices("method")
    config = compose(["method=mine", "data=cifar10"])
    assert config.epochs == 17 and config.method == "mine" and list(config.peers) == ["resnet8"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["epoch=3"], '"epoch" is not an option; did you mean "epochs"?'),
        (["+epoch=3"], '"epoch" is not an option; did you mean "epochs"?'),
        (["++epoch=3"], '"epoch" is not an option; did you mean "epochs"?'),
        (["probe.evry=3"], 'did you mean "probe.every"?'),
        (["epochs"], "options are written key=value"),
        (["epochs=ten"], 'epochs must be a whole number, and "ten" is not'),
        (["epochs=1.5"], "epochs must be a whole number"),
        (["dry_run=3"], "dry_run must be true or false"),
        (["method=simcrl"], 'there is no method "simcrl"; did you mean "simclr"?'),
        (["data=cifar"], 'there is no data "cifar"; did you mean "cifar10'),
        (["method=dogo", "preset=paper"], 'the method dogo has no preset "paper"; there are: reference'),
        (["peers.resnet99.lr_scale=2"], 'there is no peer "resnet99"; did you mean "resnet20_'),
        (["peers.resnet20_1.haeds=2"], 'did you mean "heads"?'),
        (["peers.resnet20_1.heads.projecton.out=2"], 'did you mean "peers.resnet20_1.heads.projection"?'),
        (["terms.kll.weight=2"], 'did you mean "terms.kl"?'),
        (["peers=[]"], "peers is empty"),
        (["peers=[a"], "cannot be read"),
        (["data=arrays"], "data.path is needed; give it as data.path=..."),
        (["seed.x=3"], '"seed" is 0, not a group of options'),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_nearest_name(words, says):
    with pytest.raises(InputError) as error:
        compose(words)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_probability_may_be_one_for_each_view_on_the_command_line():
    assert list(compose(["recipe.blur=[1.0,0.1]"]).recipe.blur) == [1.0, 0.1]
    with pytest.raises(InputError, match="probe.temperature must be a number"):
        compose(["probe.temperature=[1.0,0.1]"])


def test_every_entry_of_views_is_a_peers_own_when_views_are_separate():
    peers = compose(["recipe=multicrop", "separate_views=true", "peers={a: resnet8, b: resnet8}"]).peers
    assert list(peers.a.views) == ["views_a", "views_local_a"]
    assert list(peers.b.views) == ["views_b", "views_local_b"]
    assert compose(["separate_views=true", "peers={a: resnet8}"]).peers.a.views == "views_a"


PAIR = "peers={a: resnet8, b: resnet8}"


@pytest.mark.parametrize(
    ("words", "views"),
    [
        (["method=dogo", PAIR], ["views_a", "views_b"]),
        (["method=dogo", PAIR, "separate_views=false"], ["views", "views"]),
        (["method=dogo", "peers={a: resnet8}"], ["views"]),  # alone it is SimCLR to the bit
        (["method=dogo", "peers=resnet8"], ["views"]),
        (["method=dogo", PAIR, "recipe={_target_: mine.recipe}"], ["views", "views"]),
        (["method=dogo", PAIR, "recipe={_target_: mine.recipe, streams: []}"], ["views_a", "views_b"]),
        (["method=exits", PAIR], ["views_a", "views_b"]),
        (["method=ssl_kd", "parts=[peers,exits,deepest]", PAIR], ["views_a", "views_b"]),
        (["method=ssl_kd", "parts=[ema]", "peers=[resnet8]"], ["views", "views"]),
        (["method=ssl_kd", "parts=[teacher]", "others.teacher.weights=x", PAIR], ["views"] * 3),
        (["method=ssl_kd", "parts=[teacher]", "separate_views=true", "others.teacher.weights=x", PAIR],
         ["views_a", "views_b", "views_teacher"]),
        (["method=dml", PAIR], ["views", "views"]),
    ],
)  # fmt: skip
def test_a_method_may_wish_views_of_their_own_for_its_peers(words, views):
    config = compose(words)
    assert [peer.get("views", "views") for peer in config.peers.values()] == views
    assert (config.recipe.get("streams") or None) == (
        list(config.peers) if "views_a" in views else None
    ) and config.separate_views == ("views_a" in views)


def test_what_is_fused_was_said_of_the_same_views():
    config = compose(["method=ssl_kd", PAIR])
    assert not config.separate_views and "streams" not in config.recipe


@pytest.mark.parametrize("recipe", ["recipe=supervised", "recipe=plain", "recipe={_target_: mine.recipe}"])
def test_views_of_their_own_that_a_recipe_cannot_make_are_refused(recipe):
    with pytest.raises(InputError, match="separate_views needs a recipe that makes views for each peer"):
        compose(["method=dogo", PAIR, recipe, "separate_views=true"])


def test_mean_and_std_may_be_one_number_for_each_channel():
    assert list(compose(["data=arrays", "data.path=x.npz", "data.mean=[0.5,0.4,0.3]"]).data.mean) == [
        0.5,
        0.4,
        0.3,
    ]


def test_a_group_of_options_may_be_given_in_part():
    config = compose(["health={every: 7}", "probe={}"])
    assert config.health.every == 7 and config.health.patience == 5 and config.probe.linear
    with pytest.raises(InputError, match='"health.evry" is not an option; did you mean "health.every"'):
        compose(["health={evry: 7}"])


def test_a_peer_that_is_there_gets_another_backbone_by_its_name():
    config = compose(["peers={a: resnet8, b: resnet8}", "peers.b=resnet20"])
    assert config.peers.b.backbone.name == "resnet20" and "projection" in config.peers.b.heads
    with pytest.raises(InputError, match='there is no peer "c"'):
        compose(["peers={a: resnet8, b: resnet8}", "peers.c=resnet20"])
