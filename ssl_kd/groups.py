"""The folders of configs, and what can be chosen from them. Read by every command, so nothing heavy here."""

from pathlib import Path

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
