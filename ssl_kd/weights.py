"""A peer that starts with what another run has learned: the run folder is the interface between trainings."""

from pathlib import Path

from omegaconf import DictConfig
from safetensors.torch import load_file
from torch import nn

from ssl_kd.errors import InputError, nearest
from ssl_kd.run import Run


def start_from(peer: nn.Module, name: str, source: str | DictConfig) -> None:
    """Puts the weights of another run into `peer`: those of its backbone, and of heads that both have.

    source: a run folder, whose peer called `name`, or whose only one, is taken; or {run: folder, peer: name}.
    Raises InputError for a run or a peer that is not there, and for another architecture.
    """
    where = f"peers.{name}.weights"
    node = {"run": source} if isinstance(source, str) else source
    if not isinstance(node, dict | DictConfig) or "run" not in node or set(node) - {"run", "peer"}:
        raise InputError(f"{where} is a run folder, or {{run: folder, peer: name}}, not {source}")
    folder, wanted = node["run"], node.get("peer")
    run = Run(Path(str(folder)).expanduser())
    place = run.chosen if run.config().probe.get("select", "last") != "last" else run.checkpoint
    if place is None:
        raise InputError(f"{where}: {folder} has no checkpoint")
    saved = load_file(place / "cohort.safetensors")
    peers = sorted({key.split(".")[1] for key in saved})
    taken = wanted or (name if name in peers or len(peers) > 1 else peers[0])
    if taken not in peers:
        raise InputError(f'{where}: {folder} has no peer "{taken}"; {nearest(taken, peers)}')
    theirs = {key.split(".", 2)[2]: value for key, value in saved.items() if key.split(".")[1] == taken}
    own = peer.state_dict()
    both = {key.split(".")[1] for key in theirs if key.startswith("heads.")} & {
        key.split(".")[1] for key in own if key.startswith("heads.")
    }

    def starts(key: str) -> bool:
        return not key.startswith("heads.") or key.split(".")[1] in both

    for key in filter(starts, [*own, *theirs]):
        if key not in own or key not in theirs or theirs[key].shape != own[key].shape:
            raise InputError(f'{where}: "{taken}" of {folder} is another network; they differ in "{key}"')
    peer.load_state_dict({key: value for key, value in theirs.items() if starts(key)}, strict=False)
