"""Tab completion: scripts for three shells, and the words that each asks `ssl-kd __complete` for.

A script hands over what is typed so far; what comes back replaces its last word. A word that is complete ends
with a space; one that goes on (`epochs=`, `runs/`, `[resnet20`) does not.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ssl_kd.commands.catalogue import COMMANDS, PROBES, VALUES, command, probe_options
from ssl_kd.commands.documented import Option, options_in
from ssl_kd.commands.names import backbones
from ssl_kd.errors import InputError, nearest
from ssl_kd.groups import GROUPS, choices, chosen_file, config_folder
from ssl_kd.system.paths import expand, is_path

SHELLS = ("bash", "zsh", "fish")
ASK = "__complete"  # the hidden command that the scripts run
_PLAIN = re.compile(r"[\w@%+=:,./\[-]*(?<!\n) ?")  # what no shell takes for more than text
_DEFAULTS = {"method": "dogo", "data": "digits", "recipe": "simclr", "optim": "adamw"}
_PEER = (
    "backbone",
    "frozen",
    "weights",
    "lr_scale",
    "pretext",
    "heads",
    "follow",
    "optim",
    "cache",
    "stages",
)

SCRIPTS = {
    "bash": """# source <(ssl-kd completion bash)
_ssl_kd() {
    local word
    COMPREPLY=()
    while IFS= read -r word; do
        COMPREPLY+=("$word")
    done < <("${COMP_WORDS[0]}" __complete bash "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null)
}
complete -o nospace -F _ssl_kd ssl-kd
""",
    "zsh": """#compdef ssl-kd
# source <(ssl-kd completion zsh), after compinit; or a file _ssl-kd in a folder of $fpath
_ssl_kd() {
    local -a found
    found=("${(@f)$(${words[1]} __complete zsh "${(j: :)words[1,CURRENT-1]} $PREFIX" 2>/dev/null)}")
    (( $#found )) && [[ -n $found[1] ]] && compadd -Q -S '' -- $found
}
if [[ $funcstack[1] == _ssl[_-]kd ]]; then
    _ssl_kd
else
    compdef _ssl_kd ssl-kd
fi
""",
    "fish": """# ssl-kd completion fish > ~/.config/fish/completions/ssl-kd.fish
complete -c ssl-kd -f -a '(ssl-kd __complete fish (commandline -cp | string collect) 2>/dev/null)'
""",
}


def script(words: Sequence[str]) -> str:
    """`ssl-kd completion SHELL`."""
    if len(words) != 1 or words[0] not in SHELLS:
        said = f'"{words[0]}" is none of them; {nearest(words[0], list(SHELLS))}' if words else "say which"
        raise InputError(f"completion is for bash, zsh and fish: {said}")
    return SCRIPTS[words[0]]


def answer(words: Sequence[str]) -> str:
    """`ssl-kd __complete SHELL LINE [WORDBREAKS]`: lines of what may stand in place of the last word."""
    shell, line, *breaks = words
    found = complete(line)
    if shell == "bash":  # readline knows only what comes behind the last break of the last word
        last = _split(line)[-1]
        cut = max((last.rfind(c) + 1 for c in "=:" if c in (breaks[0] if breaks else "=:")), default=0)
        found = [word[cut:] for word in found]
    if shell == "fish":  # which adds a space by itself where none of /=, ends the word
        found = [word.rstrip(" ") for word in found]
    return "".join(f"{word}\n" for word in found)


def complete(line: str) -> list[str]:
    """The words that the last word of a command line can become.

    A shell puts them into the line as they are, and files may be called anything: what has an effect in a
    shell, a name like `a;reboot`, is left out.
    """
    typed = _split(line)[-1]
    return [word for word in _complete(line) if _PLAIN.fullmatch(word.removeprefix(typed))]


def _complete(line: str) -> list[str]:
    *before, current = _split(line)
    words = before[1:]
    if any(quote in current for quote in "'\""):
        return []
    if not words:
        return _starting(current, [f"{name} " for name in (*COMMANDS, *PROBES, "--help", "--version")])
    name = words[0]
    if name not in (*COMMANDS, *PROBES):
        return []
    key, equals, value = current.partition("=")
    if equals:
        return [f"{key}={rest}" for rest in _values(name, key, value, words)]
    return [*_places(name, current), *_keys(name, current, words), *_starting(current, ["--help "])]


def _split(line: str) -> list[str]:
    """The words of a line, the last of them as far as it is typed; spaces inside quotes do not count."""
    words, quote = [""], ""
    for character in line:
        if character in "'\"" and quote in ("", character):
            quote = "" if quote else character
        if character.isspace() and not quote:
            words += [""] if words[-1] else []
        else:
            words[-1] += character
    return words


def _starting(text: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(text)]


def _keys(name: str, current: str, words: Sequence[str]) -> list[str]:
    """`epochs=`, and `probe.` for all that begins so, until that is typed."""
    typed = {word.partition("=")[0] for word in words[1:]}
    found: dict[str, None] = {}
    for option in _options(name, words):
        rest = option.key[len(current) :] if option.key.startswith(current) else None
        if rest is None or option.key in typed:
            continue
        head, dot, _ = rest.partition(".")
        leaf = option.default or name not in COMMANDS or not COMMANDS[name].trains
        found |= {f"{current}{head}.": None} if dot else {f"{option.key}=": None} if leaf else {}
    return list(found)


def _options(name: str, words: Sequence[str]) -> list[Option]:
    found = command(name)
    options = list(found.options)
    if name == "eval":
        options += [Option(f"{p}.{o.key}", o.default) for p in PROBES for o in probe_options(p)]
    if not found.trains:
        return options
    options += [Option(group, "?") for group in (*GROUPS, "config")]
    options += options_in(config_folder() / "config.yaml")
    for group in GROUPS:
        file = _file(group, words)
        own = options_in(file, "" if group == "method" else f"{group}.") if file else []
        options += [o for o in own if not o.key.startswith(("peer.", "part.", "presets.", "others."))]
    options += [Option(f"peers.{peer}.{key}", "?") for peer in _peers(words) for key in _PEER]
    skipped = ("_target_", ".name", "suits")
    return [o for o in options if not o.key.endswith(skipped) and o.key not in ("steps", "classes")]


def _file(group: str, words: Sequence[str]) -> Path | None:
    picked = next((w.partition("=")[2] for w in reversed(words) if w.startswith(f"{group}=")), None)
    return chosen_file(group, picked or _DEFAULTS[group])


def _peers(words: Sequence[str]) -> list[str]:
    """Names of the peers as far as the words `peers=[a,b]` or `peers={a: ...}` show them."""
    said = next((w.partition("=")[2] for w in reversed(words) if w.strip("'\"").startswith("peers=")), "")
    if said.startswith("["):
        names = [n.strip().replace("/", "_").replace(".", "_") for n in said.strip("[]").split(",")]
        return [
            f"{n}_{names[: i + 1].count(n)}" if names.count(n) > 1 else n for i, n in enumerate(names) if n
        ]
    return []


def _values(name: str, key: str, value: str, words: Sequence[str]) -> list[str]:
    key = key.lstrip("+~")
    if key in GROUPS and not (name == "transfer" and "/" in value):
        return _starting(value, [f"{choice} " for choice in choices(key)])
    if key == "peers" or key.endswith(".backbone"):
        return _listed(value, backbones(_last(value)))
    if key == "pretext" or key.endswith(".pretext"):
        return _listed(value, choices("pretext"))
    if key in ("parts", "preset"):
        return _listed(value, _inside("part" if key == "parts" else "presets", words))
    known = VALUES.get(f"{name}.{key}", VALUES.get(key))
    if known is not None:
        return _listed(value, known)
    default = next((o.default for o in _options(name, words) if o.key == key), "")
    if default in ("true", "false"):
        return _starting(value, ["true ", "false "])
    if is_path(key) or key == "data":
        return _paths(value, key)
    return []


def _inside(key: str, words: Sequence[str]) -> list[str]:
    """Names of a method's presets or parts."""
    file = _file("method", words)
    found = [o.key.split(".") for o in options_in(file)] if file else []
    return list(dict.fromkeys(parts[1] for parts in found if parts[0] == key and parts[1:]))


def _last(value: str) -> str:
    return value.rpartition(",")[2].lstrip("[ ")


def _listed(value: str, known: Iterable[str]) -> list[str]:
    """`[a,` -> `[a,b`; one alone needs no brackets."""
    if value.startswith("["):
        start = value[: len(value) - len(_last(value))]
        return [start + word for word in known if word.startswith(_last(value))]
    return _starting(value, [f"{word} " for word in known])


def _places(name: str, current: str) -> list[str]:
    """Words without `=`: run folders, files, shells."""
    if name == "completion":
        return _starting(current, [f"{shell} " for shell in SHELLS])
    if name in ("compare", "study", "init"):
        return _paths(current, "run" if name == "compare" else "config" if name == "study" else "")
    return []


def _paths(value: str, key: str) -> list[str]:
    """Files and folders that begin so; for `run` run folders, for `config` YAML files, and the way there."""
    kind = key.rpartition(".")[2]
    if kind == "run" and not value and Path("runs").is_dir():
        value = "runs/"
    head, slash, tail = value.rpartition("/")
    folder = expand(head + slash) if head or slash else Path()
    try:
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError:
        return []
    found = []
    for path in entries:
        if not path.name.startswith(tail) or (path.name.startswith(".") and not tail.startswith(".")):
            continue
        word = f"{head}{slash}{path.name}"
        if path.is_dir():
            whole = kind in ("run", "weights") and (path / "config.yaml").is_file()
            found.append(f"{word} " if whole else f"{word}/")
        elif kind == "config" and path.suffix in (".yaml", ".yml"):
            found.append(f"{word} ")
        elif kind not in ("run", "config", "out", "folder"):
            found.append(f"{word} ")
    return found
