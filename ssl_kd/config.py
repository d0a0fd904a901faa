"""From `key=value` words to one checked config. No torch here, so that `show` and every refusal are quick."""

import copy
import difflib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ssl_kd import architecture, labelled
from ssl_kd.cast import described, expand_all, expand_own, expand_pairs, named, overlay
from ssl_kd.errors import InputError, nearest
from ssl_kd.groups import GROUPS, choices, chosen_file, folders
from ssl_kd.groups import config_folder as config_folder
from ssl_kd.lineage import inherit
from ssl_kd.options_file import FILE, said_in
from ssl_kd.pretexts import Pretexts
from ssl_kd.values import SHAPES, check, check_whole

PEER_KEYS = (
    "backbone",
    "heads",
    "views",
    "sees",
    "stages",
    "per_view",
    "frozen",
    "follow",
    "lr_scale",
    "weights",
    "optim",
    "cache",
    "cut",
    "pretext",
)
# Keys that may differ when a run is continued: where and how it runs, not what it computes.
INCIDENTAL = (
    "run",
    "device",
    "threads",
    "processes",
    "log_every",
    "save_every",
    "keep",
    "dry_run",
    "probe",
    "tracker",
    "tracker_options",
)
INCIDENTAL_DATA = ("workers", "resident_bytes")
_SEPARABLE = "ssl_kd.data.recipes.Recipe"  # of our recipes the one that can make views for each peer
# Mappings that hold names the user chooses; everywhere else an unknown key is a mistake.
_OPEN = ("peers", "peer", "others", "terms", "presets", "part", "tracker_options")
_OF_METHOD = ("terms", "parts", "preset", "others")
_PARTLY = ("health", "probe", "labels")  # a mapping says some of their options, and leaves the others
_FROM_DATA = {"steps": "epochs= says how long to train", "classes": "it counts its own"}


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
    picked, assigned = _said(words)
    config = _hydra([f"{group}={name}" for group, name in picked.items()])
    suits = config.data.pop("suits", None) or {}
    for key in ("epochs", "batch_size"):
        if key in suits:
            config[key] = suits[key]
    for key, value in (suits.get("recipe") or {}).items():
        if key in config.recipe:
            config.recipe[key] = value
    _lay_parts(config, assigned)
    preset = _preset(config, assigned)
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
            _assign(config, item)
    check(config, SHAPES)
    del config.peer
    separate = _separate(config, asked=any(item.key == "separate_views" for item in assigned))
    config.peers = named(config.peers, lambda name: templates[pretexts.peers[name]], separate)
    users = [item for item in later if item.key.lstrip("~").split(".")[1] in config.peers]
    for item in users:
        of_backbone = item.key.count(".") == 1 and isinstance(item.value, str)
        _assign(config, item._replace(key=f"{item.key}.backbone") if of_backbone else item)
    check(config, SHAPES)
    inherit(config.peers)
    everyone, having = pretexts.add(config.peers, config.pop("others"), separate)
    del config.pretext
    for item in (item for item in later if item not in users):
        _, name, *rest = item.key.split(".")
        if name in config.peers and rest[:1] == ["pretext"]:
            raise InputError(f"{item.key}: the method adds this peer; say others.NAME.pretext")
        _assign(config, item)
    check(config, SHAPES)
    _finish(config, everyone, having)
    return config


def options(words: Sequence[str]) -> dict[str, Any]:
    """The `key=value` words of a command that has no config of its own."""
    return {item.key: item.value for item in _split(words)[1]}


def computed(config: DictConfig) -> DictConfig:
    """The options that change what a run computes, without those of where and how it runs."""
    watched = (config.get("health") or {}).get("on_hurt") != "gate"
    left_out = {*INCIDENTAL, *(["health"] if watched else [])}
    kept = OmegaConf.masked_copy(config, [str(key) for key in config if key not in left_out])
    kept.data = OmegaConf.masked_copy(
        config.data, [str(key) for key in config.data if key not in INCIDENTAL_DATA]
    )
    return kept


def run_name(config: DictConfig) -> str:
    """A folder name that the same options always get, and others do not."""
    text = OmegaConf.to_yaml(computed(config), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:6]
    return f"runs/{config.method}-{config.data.name}-{config.seed}-{digest}"


def differences(old: DictConfig, new: DictConfig) -> list[str]:
    """`key: old there, new here` for every option that changes what a run computes."""
    a, b = (dict(_flat(computed(config))) for config in (old, new))
    keys = [key for key in {**a, **b} if a.get(key) != b.get(key)]
    return [f"{key}: {a.get(key, 'absent')} there, {b.get(key, 'absent')} here" for key in keys]


class Said(NamedTuple):
    """What is said of an option, and in which file, if not on the command line."""

    key: str
    value: Any
    where: str = ""


def _said(words: Sequence[str]) -> tuple[dict[str, str], list[Said]]:
    """Choices of groups and assignments: those of the files that `config=` names, then those of the words.

    What a file says of its choice goes with it: the options of data=folder say nothing of data=cifar10.
    """
    files = [word.partition("=")[2] for word in words if word.partition("=")[0] == FILE]
    layers = [_file(Path(file).expanduser()) for file in files]
    layers.append(_split([word for word in words if word.partition("=")[0] != FILE]))
    picked: dict[str, str] = {}
    assigned: list[Said] = []
    for choice, items in layers:
        other = [group for group, name in choice.items() if picked.get(group, name) != name]
        other += [item.key for item in items if item.key in (*GROUPS, "peers")]  # described anew
        assigned = [item for item in assigned if not _belongs(item.key.lstrip("~"), other)] + items
        picked |= choice
    last = {
        item.key: place for place, item in enumerate(assigned)
    }  # which alone counts: it may be null again
    kept = [item for i, item in enumerate(assigned) if i == last[item.key] or isinstance(item.value, dict)]
    return picked, kept


def _preset(config: DictConfig, assigned: Sequence[Said]) -> DictConfig:
    """The options of the chosen preset; none without one."""
    presets = config.pop("presets")
    name = _last(assigned, "preset", config.preset)
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
            _assign(asked, item)
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
            _assign(config, item)
            templates[names] = config.peer
        except InputError as error:
            refused.append(error)
    if len(refused) == len(templates):
        raise refused[0]


def _belongs(key: str, groups: Sequence[str]) -> bool:
    """Whether an option is of the choice in one of the groups; a method's terms and parts are."""
    return any(key.split(".")[0] in (_OF_METHOD if group == "method" else (group,)) for group in groups)


def _file(path: Path) -> tuple[dict[str, str], list[Said]]:
    picked, assigned = {}, []
    for key, value in said_in(path):
        if key in GROUPS and isinstance(value, str):
            picked[key] = _choice(key, value, f"{path}: ")
        else:
            assigned.append(Said(key, value, str(path)))
    return picked, assigned


def _split(words: Sequence[str]) -> tuple[dict[str, str], list[Said]]:
    """Choices of groups (for hydra) and assignments (ours: `+` changes nothing, `~key` deletes)."""
    picked, assigned = {}, []
    for word in words:
        key, equals, text = word.partition("=")
        key = key.lstrip("+").lstrip("-") if equals else key
        if word.startswith("~"):
            assigned.append(Said(word, None))
        elif not equals:
            raise InputError(f'"{word}" is not an option; options are written key=value, as in epochs=10')
        elif key in GROUPS and not text.startswith("{"):  # a mapping describes one instead of naming it
            picked[key] = _choice(key, text)
        else:
            assigned.append(Said(key, _value(key, text)))
    return picked, assigned


def _choice(group: str, name: str, where: str = "") -> str:
    if name not in choices(group):
        raise InputError(f'{where}there is no {group} "{name}"; {nearest(name, choices(group))}')
    return name


def _value(key: str, text: str) -> Any:
    """What hydra reads, or else what YAML reads (for quoted keys, as in {"a<-b": 1})."""
    try:
        value = OverridesParser.create().parse_override(f"x={text}").value()
        return OmegaConf.to_container(OmegaConf.create({"x": value}))["x"]
    except (HydraException, OmegaConfBaseException):
        pass
    try:
        return OmegaConf.to_container(OmegaConf.create(f"x: {text}"))["x"]
    except Exception as error:  # every YAML error, whatever its class
        raise InputError(f'{key}: "{text}" cannot be read; lists are [a,b] and mappings {{a: 1}}') from error


def _hydra(picked: Sequence[str]) -> DictConfig:
    own, *users = folders()
    search = [f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in users)}]"] if users else []
    try:
        with initialize_config_dir(str(own.resolve()), version_base="1.3"):
            full = hydra_compose("config", overrides=[*picked, *search], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise InputError(f"the config files do not fit together: {' '.join(str(error).split())}") from error
    chosen = full.hydra.runtime.choices
    if "method" in full:  # a key of its own, as of any group whose file does not say otherwise
        file = chosen_file("method", chosen.method)
        raise InputError(f'{file} must begin with the line "# @package _global_"')
    config = OmegaConf.create({key: full._get_node(key) for key in full if key != "hydra"})
    config.method = chosen.method
    return config


def _assign(config: DictConfig, said: Said) -> None:
    try:
        _put(config, said.key, said.value)
    except InputError as error:
        if not said.where:
            raise
        raise InputError(f"{said.where}: {error}") from error


def _put(config: DictConfig, key: str, value: Any) -> None:
    delete, key = key.startswith("~"), key.lstrip("~")
    parts = key.split(".")
    if key in _FROM_DATA:
        raise InputError(f"{key} is filled in by the data; {_FROM_DATA[key]}")
    node: Any = config
    for depth, part in enumerate(parts[:-1]):
        _known(node, part, parts[:depth])
        if node.get(part) is None or (node[part] == {} and parts[0] in _OPEN):
            node[part] = {}
        node = node[part]
        if not isinstance(node, DictConfig):
            raise InputError(f'"{".".join(parts[: depth + 1])}" is {node}, not a group of options')
    _known(node, parts[-1], parts[:-1], last=True)
    if key in _PARTLY and isinstance(value, dict):
        for name, entry in value.items():
            _put(config, f"{key}.{name}", entry)
        return
    if delete:
        if not parts[1:] or not (parts[0] in _OPEN or "_target_" in node):
            raise InputError(
                f'"{key}" is always there and cannot be taken away; ~ takes away a peer, a head, a term, or '
                "an option of what `_target_` names"
            )
        node.pop(parts[-1], None)
        return
    old = node.get(parts[-1]) if not OmegaConf.is_missing(node, parts[-1]) else None
    node[parts[-1]] = _typed(key, old, value)


def _known(node: DictConfig, part: str, parents: list[str], last: bool = False) -> None:
    """Refuses a key that does not exist, unless a constructor may take it or the user may invent it.

    last: nothing follows. A whole new term or head can be given; an option of one that is not there cannot.
    """
    if part in node or "_target_" in node:
        return
    if parents and parents[0] in _OPEN:
        if parents == ["peers"]:
            raise InputError(f'there is no peer "{part}"; {nearest(part, [str(k) for k in node])}')
        if last or part in PEER_KEYS:
            return
    hint = _suggest(part, [str(k) for k in node], ".".join(parents))
    raise InputError(f'"{".".join([*parents, part])}" is not an option; {hint}')


def _suggest(part: str, known: list[str], where: str) -> str:
    match = difflib.get_close_matches(part, known, n=1, cutoff=0.5)
    return (
        f'did you mean "{where + "." if where else ""}{match[0]}"?'
        if match
        else f"there are: {', '.join(known)}"
    )


def _typed(key: str, old: Any, value: Any) -> Any:
    """`value`, if it is of the kind that stands there now."""
    if isinstance(old, bool):
        right, kind = isinstance(value, bool), "true or false"
    elif isinstance(old, int):
        of_seed = key == "labels.draw" and value == "${seed}"
        right = of_seed or (isinstance(value, int) and not isinstance(value, bool))
        kind = "a whole number"
    elif isinstance(old, float):
        several = key.startswith("recipe.") or key in ("data.mean", "data.std")  # per view, per channel
        listed = isinstance(value, list) and several
        stage = isinstance(value, str) and (key.endswith(".reads") or ".stages." in key)  # by its name
        right = listed or stage or (isinstance(value, int | float | dict) and not isinstance(value, bool))
        kind = "a number"
    elif isinstance(old, DictConfig):
        right, kind = (
            isinstance(value, dict | list | int | float | str) or value is None,
            "a group of options",
        )
    else:
        return value
    if not right:
        raise InputError(f'{key} must be {kind}, and "{value}" is not')
    return value


def _lay_parts(config: DictConfig, assigned: Sequence[Said]) -> None:
    """Lays the chosen parts of the method over it; what is not chosen is not there at all."""
    definitions = config.pop("part")
    chosen = _last(assigned, "parts", None)
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


def _last(assigned: Sequence[Said], key: str, default: Any) -> Any:
    """What the user's words say, the last of them, or else `default`."""
    return next((item.value for item in reversed(assigned) if item.key == key), default)


def _finish(config: DictConfig, everyone: Sequence[str], having: Mapping[str, Sequence[str]]) -> None:
    """Checks peers, and writes names of learning peers where a term says "all".

    These are the user's, or in a term that is in `having` those that have its pretext.
    """
    for name in list(config.peers):
        peer = config.peers[name]
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
        heads = peer.get("heads")
        for head in [head for head in heads if heads[head] is None] if isinstance(heads, DictConfig) else []:
            del heads[head]  # as ~peers.NAME.heads.HEAD, in a method
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
        if isinstance(value, str) and (config.data.name != "hub" or Path(value).expanduser().exists()):
            config.data[key] = str(Path(value).expanduser().absolute())
    labels = config.get("labels")
    if isinstance(labels, DictConfig) and isinstance(labels.get("file"), str):
        labels.file = str(Path(labels.file).expanduser().absolute())


def _anywhere(peer: DictConfig) -> None:
    """The run that a peer's weights come from is found from any folder."""
    weights = peer.get("weights")
    if isinstance(weights, str):
        peer.weights = str(Path(weights).expanduser().absolute())
    elif isinstance(weights, DictConfig) and weights.get("run"):
        weights.run = str(Path(str(weights.run)).expanduser().absolute())


def _flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, DictConfig):
        for key in node:
            yield from _flat(node[key], f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, OmegaConf.to_container(node) if isinstance(node, ListConfig) else node
