"""From options to one checked config: defaults, data, parts, preset, pretexts, what was said. No torch."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ssl_kd import architecture, labelled
from ssl_kd.assign import PEER_KEYS, assign
from ssl_kd.cast import described, expand_all, expand_own, expand_pairs, named, overlay, texts
from ssl_kd.errors import InputError, nearest
from ssl_kd.groups import check_files, chosen_file, folders
from ssl_kd.lineage import inherit
from ssl_kd.own import loading
from ssl_kd.own.words import allow
from ssl_kd.pretexts import Pretexts
from ssl_kd.system.documents import config_of
from ssl_kd.system.paths import expanded
from ssl_kd.values import SHAPES, check, check_whole
from ssl_kd.words import Said, last, read

MAIN = "ssl_kd_config"  # what configs/config.yaml of ours is called among the files of configs
_SEPARABLE = "ssl_kd.data.recipes.Recipe"  # of our recipes the one that can make views for each peer


def compose(words: Sequence[str]) -> DictConfig:
    """The config that `words` ask for: defaults, what suits the data, the preset, then the words.

    Peers are expanded from the method's template, "all" in a term into the names of the learning peers.
    `${steps}` and `${classes}` stay open until the data is read. Raises InputError.
    """
    try:
        return _compose(words)
    except OmegaConfBaseException as error:
        raise InputError(f"the options do not fit together: {str(error).splitlines()[0]}") from error


def _compose(words: Sequence[str]) -> DictConfig:
    picked, assigned = read(words)
    config = _hydra(picked)
    suits = config.data.pop("suits", None) or {}
    for key in ("epochs", "batch_size"):
        if key in suits:
            config[key] = suits[key]
    for key, value in (suits.get("recipe") or {}).items():
        if key in config.recipe:
            config.recipe[key] = value
    _lay_parts(config, assigned)
    preset = _preset(config, assigned)
    declared = copy.deepcopy(preset.get("peers") or config.peers)
    pretexts = Pretexts(*_asked(config, preset, assigned))
    pretexts.lay(config)
    templates = pretexts.templates(config.peer)
    for template in templates.values():
        overlay(template, preset.get("peer", {}))
    overlay(config, OmegaConf.masked_copy(preset, [str(key) for key in preset if key != "peer"]))
    whole = isinstance(config.peers, DictConfig) and [f"peers.{name}" for name in config.peers]
    later = [
        item
        for item in assigned
        if item.key.startswith(("peers.", "~peers.")) and item.key not in (whole or ())
    ]
    for item in (item for item in assigned if item not in later):
        if item.key.lstrip("~").split(".")[0] == "peer":
            _assign_each(config, item, templates)
        else:
            assign(config, item)
    check(config, SHAPES)
    del config.peer
    separate = _separate(config, asked=any(item.key == "separate_views" for item in assigned))
    config.peers = named(config.peers, lambda name: templates[pretexts.peers[name]], separate)
    users = [item for item in later if item.key.lstrip("~").split(".")[1] in config.peers]
    for item in users:
        of_backbone = item.key.count(".") == 1 and isinstance(item.value, str)
        assign(config, item._replace(key=f"{item.key}.backbone") if of_backbone else item)
    check(config, SHAPES)
    loading.begin()
    inherit(config.peers)
    inherited = loading.since()
    everyone, having = pretexts.add(config.peers, config.pop("others"), separate)
    del config.pretext
    for item in (item for item in later if item not in users):
        _, name, *rest = item.key.split(".")
        if name in config.peers and rest[:1] == ["pretext"]:
            raise InputError(f"{item.key}: the method adds this peer; say others.NAME.pretext")
        assign(config, item)
    check(config, SHAPES)
    _check_roles(config, declared, assigned)
    _finish(config, everyone, having)
    allow(config, assigned, inherited)
    return config


def _check_roles(config: DictConfig, declared: Any, assigned: Sequence[Said]) -> None:
    """Refuses peers that replace those whose names the method's terms, or other peers, go by."""
    if not isinstance(declared, DictConfig):
        return
    read = {
        text.partition(".")[0]
        for node in (config.terms, *config.peers.values())
        for text in texts(OmegaConf.to_container(node, resolve=False))
    }
    missing = [str(name) for name in declared if name not in config.peers and str(name) in read]
    if not missing:
        return
    learns = [n for n, peer in declared.items() if isinstance(peer, str) or not (peer or {}).get("frozen")]
    role = next((str(name) for name in learns if "follow" not in (declared[name] or ())), str(learns[0]))
    said = next((item.value for item in assigned if item.key == "peers"), None)
    first = (
        said[0] if isinstance(said, list | ListConfig) and said and isinstance(said[0], str) else "resnet20"
    )
    raise InputError(
        f"method={config.method} goes by the names of its peers, {', '.join(map(str, declared))}, and there "
        f"is no {missing[0]}: peers= replaces them all; for another backbone say peers.{role}={first}"
    )


def _preset(config: DictConfig, assigned: Sequence[Said]) -> DictConfig:
    """The options of the chosen preset; none without one."""
    presets = config.pop("presets")
    name = last(assigned, "preset", config.preset)
    if name is None:
        return OmegaConf.create({})
    if name not in presets:
        raise InputError(
            f'the method {config.method} has no preset "{name}"; {nearest(str(name), list(presets))}'
        )
    return presets[name]


def _asked(
    config: DictConfig, preset: DictConfig, assigned: Sequence[Said]
) -> tuple[DictConfig, dict[str, Any]]:
    """Who takes part and by which pretexts, before any other option; and what `peers.NAME.pretext` says."""
    keys = ["pretext", "peers", "others"]
    asked = OmegaConf.masked_copy(config, keys)
    overlay(asked, OmegaConf.masked_copy(preset, [key for key in keys if key in preset]))
    known = [f"peers.{name}" for name in asked.peers] if isinstance(asked.peers, DictConfig) else []
    of = {}
    for item in assigned:
        parts = item.key.split(".")
        if item.key in ("pretext", "peers", *known) or (parts[0] == "others" and parts[2:] == ["pretext"]):
            assign(asked, item)
        elif parts[0] == "peers" and parts[2:] == ["pretext"]:
            of[parts[1]] = item.value
            check(OmegaConf.create({"pretext": item.value}), SHAPES)
    check(asked, SHAPES)
    return asked, of


def _assign_each(config: DictConfig, item: Said, templates: dict[tuple[str, ...], DictConfig]) -> None:
    """Says of every peer's template what `peer.` says of all; one that has no such option is left alone."""
    refused = []
    for names, template in list(templates.items()):
        config.peer = copy.deepcopy(template)
        try:
            assign(config, item)
            templates[names] = config.peer
        except InputError as error:
            refused.append(error)
    if len(refused) == len(templates):
        raise refused[0]


def _hydra(picked: Mapping[str, str]) -> DictConfig:
    *users, own = reversed(folders())  # the first that has a file of a name is taken
    search = [f"hydra.searchpath=['file://{own.resolve()}']"] if users else []
    if users:
        check_files(picked)
    try:
        # By itself: a config.yaml of the user's own would be taken for it.
        ConfigStore.instance().store(MAIN, config_of(own / "config.yaml"))
        with initialize_config_dir(str((users or [own])[0].resolve()), version_base="1.3"):
            full = hydra_compose(
                MAIN,
                overrides=[*(f"{group}={name}" for group, name in picked.items()), *search],
                return_hydra_config=True,
            )
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise InputError(f"the config files do not fit together: {' '.join(str(error).split())}") from error
    chosen = full.hydra.runtime.choices
    if "method" in full:  # a key of its own, as of any group whose file does not say otherwise
        file = chosen_file("method", chosen.method)
        raise InputError(f'{file} must begin with the line "# @package _global_"')
    config = OmegaConf.create({key: full._get_node(key) for key in full if key != "hydra"})
    config.method = chosen.method
    return config


def _lay_parts(config: DictConfig, assigned: Sequence[Said]) -> None:
    """Lays the chosen parts of the method over it; what is not chosen is not there at all."""
    definitions = config.pop("part")
    chosen = last(assigned, "parts", None)
    chosen = config.parts if chosen is None else chosen
    chosen = [chosen] if isinstance(chosen, str) else chosen or []
    if not isinstance(chosen, list | ListConfig):
        raise InputError(f"parts is a list of names, as in parts=[peers,exits], not {chosen}")
    if chosen and not definitions:
        raise InputError(f"the method {config.method} has no parts to choose")
    for name in chosen:
        if name not in definitions:
            raise InputError(
                f'the method {config.method} has no part "{name}"; {nearest(str(name), list(definitions))}'
            )
    for name in (name for name in definitions if name in chosen):  # in the method's order
        overlay(config, definitions[name])


def _separate(config: DictConfig, asked: bool) -> bool:
    """Whether peers see views of their own; a method's wish ends at one peer, or a recipe that cannot."""
    recipe = config.recipe.get("_target_")
    able = recipe == _SEPARABLE or "streams" in config.recipe
    if config.separate_views and asked and not able:
        raise InputError(
            f"separate_views needs a recipe that makes views for each peer, and {recipe} makes one set; "
            'one of your own does with an argument "streams", the names of the peers, and recipe.streams=[]'
        )
    alone = isinstance(config.peers, str) or len(config.peers or ()) == 1
    if not asked and (alone or not able):
        config.separate_views = False
    return bool(config.separate_views)


def _finish(config: DictConfig, everyone: Sequence[str], having: Mapping[str, Sequence[str]]) -> None:
    """Checks peers, and writes names of learning peers where a term says "all".

    These are the user's, or in a term that is in `having` those that have its pretext.
    """
    _expand(config)
    for name in list(config.peers):
        peer = config.peers[name]
        heads = peer.get("heads")
        for head in [head for head in heads if heads[head] is None] if isinstance(heads, DictConfig) else []:
            del heads[head]  # as ~peers.NAME.heads.HEAD, in a method
        if peer.get("frozen") == "backbone" and not heads:
            raise InputError(f"peers.{name}.frozen is backbone, so its heads learn, and it has none")
        if "_target_" in peer:
            continue
        for key in peer:
            if key not in PEER_KEYS:
                raise InputError(
                    f'"peers.{name}.{key}" is not an option; {nearest(str(key), list(PEER_KEYS))}'
                )
        if peer.get("backbone") is None and OmegaConf.is_missing(peer, "weights"):
            raise InputError(f"peers.{name}.weights is needed; give it as peers.{name}.weights=...")
        if peer.get("backbone") is None:
            raise InputError(f'the peer "{name}" names no backbone, as in peers.{name}.backbone=resnet20')
        config.peers[name] = described(peer)
        architecture.settle(config.peers[name], str(name))
        _anywhere(config.peers[name])
    labelled.settle(config)
    terms = OmegaConf.create({})
    for name, node in config.terms.items():
        names = having.get(str(name), everyone)
        if node is None or (not names and name in having):  # as ~terms.NAME, in a preset; a pretext of nobody
            continue
        for full, term in expand_own(str(name), node, names).items():
            term = expand_all(term, names)
            expand_pairs(term, names, config.peers)
            terms[full] = term
    config.terms = terms
    if config.separate_views:
        config.recipe.streams = list(config.peers)
    try:
        OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise InputError(f"an option refers to what is not there: {str(error).splitlines()[0]}") from error
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise InputError(f"{missing[0]} is needed; give it as {missing[0]}=...")
    check_whole(config)
    if config.run is not None:
        config.run = str(config.run)  # a folder may be called 3
    for key in ("path", "root", "train_list", "test_list"):  # a run is evaluated from any folder
        value = config.data.get(key)
        if isinstance(value, str) and (config.data.name != "hub" or Path(value).exists()):
            config.data[key] = str(Path(value).absolute())
    labels = config.get("labels")
    for node in (labels, config.get("hold_out_group")):
        if isinstance(node, DictConfig) and isinstance(node.get("file"), str):
            node.file = str(Path(node.file).absolute())


def _expand(node: DictConfig, before: str = "") -> None:
    """Expands the paths that config files of the user's say; those of the words are."""
    for key in node:
        if OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, str(key)):
            continue
        if isinstance(node[key], DictConfig):
            _expand(node[key], f"{before}{key}.")
        elif isinstance(node[key], str):
            node[key] = expanded(f"{before}{key}", node[key])


def _anywhere(peer: DictConfig) -> None:
    """The run that a peer's weights come from is found from any folder."""
    weights = peer.get("weights")
    if isinstance(weights, str):
        peer.weights = str(Path(weights).absolute())
    elif isinstance(weights, DictConfig) and weights.get("run"):
        weights.run = str(Path(str(weights.run)).absolute())
