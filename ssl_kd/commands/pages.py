"""Help: examples first, then the options with their defaults and what they mean."""

import shutil
import textwrap
from collections.abc import Sequence

from ssl_kd.commands.catalogue import COMMANDS, PROBES, Example, command
from ssl_kd.commands.documented import Option, header, options_in
from ssl_kd.groups import GROUPS, choices, chosen_file, config_folder

SHOWN = (  # on the first page
    ("train", 0), ("train", 1), ("train", 2), ("train", 3), ("train", 4), ("init", 0), ("doctor", 0),
    ("show", 0), ("timing", 0), ("runs", 0), ("eval", 1), ("compare", 0), ("study", 0), ("report", 0),
    ("export", 0),
)  # fmt: skip
_MADE = ("peer", "others", "terms", "part", "presets", "classes", "steps")  # by the method, by the data
_BY_THEIR_PARTS = ("{_target_", '"${')  # what is shown by its own options, or filled in
_HIDDEN = ("_target_", ".name", ".suits")  # what only a file says
WIDE = 34  # from here on an option stands on a line of its own


def overview() -> str:
    """`ssl-kd --help`."""
    lines = ["ssl-kd: small networks that learn together, without labels", ""]
    lines += _examples(
        [COMMANDS[name].examples[i] for name, i in SHOWN], [COMMANDS[n].what for n, _ in SHOWN]
    )
    lines += ["", "Commands; ssl-kd COMMAND --help says what each takes:"]
    lines += _table([Option(name, "", found.what) for name, found in COMMANDS.items()])
    lines += ["", "Probes of a finished run; each is a command, ssl-kd PROBE run=runs/a, or one of eval:"]
    lines += _table([Option(name, "", what) for name, what in PROBES.items()])
    lines += ["", "Options are key=value; ssl-kd train --help lists them with their defaults."]
    for group in GROUPS:
        lines += _wrapped(", ".join(choices(group)), f"  {group:<9}", 11)
    lines += [
        "  peers    a list of backbones: resnet20, wrn-16-2, resnet18, resnet50, ... or any timm model",
        "  dry_run=true builds everything, runs one step and says what the run needs",
        "",
        *_wrapped(
            "Exit codes: 0 done, 1 a run of a study failed or doctor found a problem, 2 bad input (one "
            "sentence says what), 3 stopped by health.on_collapse=stop, 75 stopped by Ctrl-C, SIGTERM or "
            "SIGUSR1 and saved (the same command continues: requeue the job), 130 stopped at once by a "
            "second Ctrl-C."
        ),
    ]
    return "\n".join(lines) + "\n"


def page(name: str, words: Sequence[str] = ()) -> str:
    """`ssl-kd NAME --help`; words: others that were typed, of which `data=folder` asks for its options."""
    found = command(name)
    usage = " ".join(filter(None, (f"ssl-kd {name}", found.places, "key=value ...")))
    lines = [f"{usage}: {found.what}", ""]
    lines += _examples(found.examples, [""] * len(found.examples))
    if found.options:
        lines += ["", "Its own options:" if found.trains else "Options:", *_table(found.options)]
    if name == "eval":
        lines += ["", "Probes, whose options are written PROBE.key=value:"]
        lines += _table([Option(probe, "", what) for probe, what in PROBES.items()])
    if found.more:
        lines += ["", *_wrapped(found.more)]
    if found.trains:
        lines += _training(words)
    return "\n".join(lines) + "\n"


def _training(words: Sequence[str]) -> list[str]:
    """The options of a training, and of the choices among the words."""
    lines = ["", "Which method, data, views and optimiser:"]
    for group in GROUPS:
        lines += _wrapped(", ".join(choices(group)), f"  {group:<9}", 11)
    lines += ["  config   a file of options (ssl-kd init writes one); words on the command line go before it"]
    said = options_in(config_folder() / "config.yaml")
    shown = [option for option in said if option.key.split(".")[0] not in _MADE]
    lines += ["", "Options, with their defaults:", *_table(shown)]
    picked = dict(word.split("=", 1) for word in words if word.partition("=")[0] in GROUPS)
    for group, name in picked.items():
        file = chosen_file(group, name)
        if file is not None:
            prefix = "" if group == "method" else f"{group}."
            own = [o for o in options_in(file, prefix) if not o.key.endswith(_HIDDEN)]
            flat = [o for o in own if group != "method" or o.key.startswith(("preset", "part", "terms"))]
            lines += ["", f"{group}={name}", *(f"  {line}".rstrip() for line in header(file)), *_table(flat)]
    if not picked:
        lines += [
            "",
            "Those of a choice: ssl-kd train data=folder --help, and so for method=, recipe=, optim=.",
        ]
    return lines


def _examples(examples: Sequence[Example], otherwise: Sequence[str]) -> list[str]:
    lines = []
    for (words, what), general in zip(examples, otherwise, strict=True):
        line, what = f"  ssl-kd {words}", what or general
        if what and len(line) > 58:
            lines += [line, f"{'':60}{what}"]
        else:
            lines.append(f"{line:<60}{what}".rstrip())
    return lines


def _table(options: Sequence[Option]) -> list[str]:
    options = [o for o in options if (o.default or o.meaning) and not o.default.startswith(_BY_THEIR_PARTS)]
    names = [f"  {o.key}" + (f"={o.default}" if o.default else "") for o in options]
    width = min(WIDE, max((len(name) for name in names), default=0) + 2)
    lines = []
    for name, option in zip(names, options, strict=True):
        first = f"{name:<{width}}"
        if len(name) + 2 > width:
            lines.append(name)
            first = " " * width
        lines += (
            _wrapped(option.meaning, first, width)
            if option.meaning
            else [first.rstrip()] * bool(first.strip())
        )
    return lines


def _wrapped(text: str, first: str = "", indent: int = 0) -> list[str]:
    wide = max(72, min(shutil.get_terminal_size((110, 24)).columns, 130))
    return textwrap.wrap(
        text, wide, initial_indent=first, subsequent_indent=" " * indent, break_long_words=False
    )
