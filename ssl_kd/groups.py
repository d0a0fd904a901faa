"""The folders of configs, and what can be chosen from them. Read by every command, so nothing heavy here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_kd.system.documents import yaml_of

GROUPS = ("method", "data", "recipe", "optim")


def config_folder() -> Path:
    """The folder of configs: inside an installed package, or beside it in a checkout."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "configs"


def folders() -> list[Path]:
    """Ours, and after it `configs/` of the current folder, where there is one, whose files go before ours."""
    own, users = config_folder(), Path.cwd() / "configs"
    return [own] if not users.is_dir() or users.resolve() == own.resolve() else [own, users]


def choices(group: str) -> list[str]:
    """Names of the files of a config group: ours and those in `configs/` of the current folder."""
    return sorted({file.stem for folder in folders() for file in (folder / group).glob("*.yaml")})


def chosen_file(group: str, name: str) -> Path | None:
    """The file of that name; the user's own goes before ours."""
    found = [folder / group / f"{name}.yaml" for folder in folders()]
    return next((file for file in reversed(found) if file.is_file()), None)


def check_files(picked: Mapping[str, str]) -> None:
    """Reads all files that hydra will read for these choices: hydra's own reader knows no bounds.

    Raises InputError.
    """
    wanted: list[tuple[str, Any]] = [
        ("", one) for one in yaml_of(config_folder() / "config.yaml")["defaults"]
    ]
    wanted.append(("", dict(picked)))
    seen: set[Path] = set()
    while wanted:
        group, entry = wanted.pop()
        for key, name in entry.items() if isinstance(entry, dict) else [("", entry)]:
            beside = f"{key} ".split()[-1:] or [""]  # the last word, as of `override /recipe@x: plain`
            place = beside[0].partition("@")[0]
            for where in {place.lstrip("/"), f"{group}/{place}".strip("/")}:
                file = chosen_file(where, str(name))
                if file is None or file in seen:
                    continue
                seen.add(file)
                content = yaml_of(file)
                below = content.get("defaults") if isinstance(content, dict) else None
                wanted += [(where, one) for one in below or [] if one != "_self_"]
