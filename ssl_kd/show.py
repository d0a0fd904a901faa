"""A method as a table of its edges and a graph. No torch here: `ssl-kd show` answers at once."""

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Group
from rich.table import Table

from ssl_kd.cast import is_frozen
from ssl_kd.console import stacked
from ssl_kd.groups import chosen_file
from ssl_kd.system.documents import CONFIG, text_of
from ssl_kd.terms import Each, Edge, Link, Mutual

if TYPE_CHECKING:
    from ssl_kd.cohort import Cohort
    from ssl_kd.engine import Result

_SHAPES = {"ssl_kd.Each": Each, "ssl_kd.Edge": Edge, "ssl_kd.Mutual": Mutual}


def links(config: DictConfig) -> list[tuple[str, str, Link]]:
    """(term, loss, link) for every edge of a composed config, without building anything."""
    found = []
    for name, node in config.terms.items():
        shape = _SHAPES.get(node.get("_target_"))
        if shape is None:
            found.append((str(name), "", Link(str(name), "", "", 1.0)))
            continue
        options = OmegaConf.to_container(node)
        assert isinstance(options, dict)
        loss = options.pop("loss")
        options.pop("_target_")
        weight = options.get("weight", 1.0)
        if isinstance(weight, dict) and "_target_" not in weight:
            options["weight"] = {edge: _schedule(value) for edge, value in weight.items()}
        else:
            options["weight"] = _schedule(weight)
        term: Any = shape(name=str(name), loss=None, **options)
        found += [(str(name), _call(loss), link) for link in term.links()]
    return found


def method_page(config: DictConfig) -> Group:
    """The header of the method's file, its peers, its edges as a table, and the graph."""
    path = chosen_file("method", str(config.method))
    lines = text_of(path, CONFIG).splitlines() if path else []
    header = [line[2:] for line in lines if line.startswith("# ") and "@package" not in line]
    return Group(*header, "", _peer_table(config), "", edge_table(config), "", *graph(config))


def edge_table(config: DictConfig) -> Table:
    """Who learns what from whom, by which loss, at which weight."""
    table = Table(title="edges", title_justify="left")
    for column in ("term", "student", "teacher", "loss", "weight"):
        table.add_column(column, overflow="fold")
    for term, loss, link in links(config):
        share = "" if link.share == 1 else f" / {round(1 / link.share)}"
        table.add_row(term, link.student, link.teacher or "(itself)", loss, f"{link.weight}{share}")
    return table


def read(config: DictConfig) -> dict[str, list[str]]:
    """Peer -> the peers before it whose outputs it reads, as a fusion of maps does."""
    found: dict[str, list[str]] = {}
    for name, peer in config.peers.items():
        custom = "_target_" in peer  # an argument of its constructor says what it reads
        values = [value for key, value in peer.items() if (key != "_target_" if custom else key == "sees")]
        texts = [text for value in values for text in (value if OmegaConf.is_list(value) else [value])]
        owners = (text.partition(".")[0] for text in texts if isinstance(text, str) and "." in text)
        found[str(name)] = [owner for owner in dict.fromkeys(owners) if owner in found]
    return found


def graph(config: DictConfig) -> list[str]:
    """One line per peer: who teaches it, and what else it goes by."""
    taught: dict[str, list[str]] = {str(name): [] for name in config.peers}
    for _, _, link in links(config):
        student, teacher = link.student.split(".")[0], link.teacher.split(".")[0]
        if teacher and teacher not in taught[student]:
            taught[student].append(teacher)
    width = max(len(name) for name in taught)
    reading, lines = read(config), []
    for name, teachers in taught.items():
        peer = config.peers[name]
        others = [other for other in reading[name] if other not in teachers]
        said = [f"<── {', '.join(teachers)}"] if teachers else []
        said += [f"reads {', '.join(others)}"] if others else []
        said += [f"follows {peer.follow.leader}"] if peer.get("follow") else []
        said += ["frozen"] if is_frozen(peer) else ["backbone frozen"] if peer.get("frozen") else []
        lines.append(f"{name:<{width}} {'; '.join(said) or 'alone'}")
    return lines


def dry_table(config: DictConfig, cohort: "Cohort", result: "Result", seconds: float) -> Group:
    """What a run would need, and what its first step said."""
    import torch

    sizes = Table(title="peers", title_justify="left")
    for column in ("peer", "backbone", "heads", "learns"):
        sizes.add_column(column, justify="left" if column in ("peer", "learns") else "right")
    total = 0
    for name, peer in cohort.peers.items():
        whole = sum(p.numel() for p in peer.parameters())
        backbone = sum(p.numel() for p in getattr(peer, "backbone", peer).parameters())
        total += sum(p.numel() * p.element_size() for p in peer.parameters())
        sizes.add_row(
            name,
            f"{backbone:,}",
            f"{whole - backbone:,}",
            "yes" if whole and name in cohort.trainable else "no",
        )
    used = _peak_memory(torch)
    terms = "  ".join(
        f"{name} {float(raw):.3f} x {weight:.3g}" for name, (raw, weight) in result.terms.items()
    )
    return Group(
        sizes,
        edge_table(config),
        *graph(config),
        f"one step: {terms}; {seconds:.1f} s with warming up",
        f"memory: {total / 2**20:.1f} MiB of weights, {used / 2**30:.2f} GiB at the peak",
    )


def _peak_memory(torch: Any) -> int:
    """Bytes: of the accelerator if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    import resource
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _peer_table(config: DictConfig) -> Table:
    table = Table(title="peers", title_justify="left")
    inputs = {name: _input(peer) for name, peer in config.peers.items()}
    several = set(inputs.values()) != {"views"}
    for column in ("peer", "backbone", *(["sees"] if several else []), "heads"):
        table.add_column(column)
    for name, peer in config.peers.items():
        network = peer.get("backbone", peer)
        heads = [
            f"{head} = {_call(OmegaConf.to_container(node))}"
            for head, node in (peer.get("heads") or {}).items()
        ]
        sees = [inputs[name]] if several else []
        table.add_row(str(name), network.get("name", network.get("_target_")), *sees, stacked(*heads))
    return table


def _input(peer: DictConfig) -> str:
    """The views, or the outputs of others, that a peer is given."""
    found = [peer[key] for key in ("sees", "reads", "shown") if peer.get(key)]
    seen = found[0] if found else "" if "_target_" in peer else peer.get("views", "views")
    return seen if isinstance(seen, str) else ", ".join(seen)


def _call(node: Any) -> str:
    """`name(option=value, ...)` for a node."""
    if not isinstance(node, dict):
        return str(node)
    options = ", ".join(
        f"{key}={_call(value)}" for key, value in node.items() if not str(key).startswith("_")
    )
    return (
        f"{str(node.get('_target_', '')).rsplit('.', 1)[-1]}({options})"
        if options
        else str(node.get("_target_", "")).rsplit(".", 1)[-1]
    )


def _schedule(value: Any) -> Any:
    """A number, or the words for a function of the step."""
    if not isinstance(value, dict):
        return value
    return _call({key: entry for key, entry in value.items() if key not in ("steps", "epochs")})
