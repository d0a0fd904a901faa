"""Names that steer terminals: nothing that is printed, and no page, passes them on."""

import base64
import hashlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from contextlib import redirect_stdout
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image
from rich.table import Table

import ssl_kd
from ssl_kd.cli import main
from ssl_kd.commands.completion import complete
from ssl_kd.compare import Difference
from ssl_kd.console import Meter, console, stacked
from ssl_kd.system.text import guard_streams, print_line, printable, printable_values

ESC, BEL, OSC, C1 = "\x1b[31m", "\x07", "\x1b]0;owned\x07", "\x9b31m"
BIDI, LINE, RAW, DEL = "\u202egnp.exe", "two\nlines", "caf\udce9", "\x7f"
ODD = [
    ESC,
    BEL,
    OSC,
    C1,
    BIDI,
    LINE,
    RAW,
    DEL,
    "\x85",
    "\u2028",
    "\u2066",
    "\x00",
    "\r",
    "\t",
    "\ud800",
    "\ufeff",
]


def clean(text: str) -> None:
    """Nothing but line ends is unprintable, and all of it can be written."""
    odd = {c for c in text if not c.isprintable()} - {"\n"}
    assert not odd, odd
    text.encode()


@pytest.mark.parametrize("odd", ODD, ids=ascii)
def test_what_is_not_to_be_seen_becomes_its_escape(odd):
    shown = printable(f"a{odd}b")
    assert shown.isprintable() and shown.startswith("a") and shown.endswith("b") and "\\" in shown


@pytest.mark.parametrize("name", ["cat", "Größe 3", "猫", "кошка", "😀", "a\\b", "[red]x[/red]", ":cat:"])
def test_letters_of_every_script_stay(name):
    assert printable(name) == name


def test_nested_values_keep_their_shape():
    assert printable_values({ESC: [1, None, (BEL, 2.5)]}) == {"\\x1b[31m": [1, None, ["\\x07", 2.5]]}


def test_tables_and_lines_show_names_as_they_are(capsys):
    name = f"[red]{ESC}{LINE}{RAW}:cat:"
    table = Table(title=name, caption=name)
    table.add_column(name)
    table.add_row(name)
    table.add_row(stacked(name, "below"))
    console().print(table)
    console().print(name, soft_wrap=True)
    printed = capsys.readouterr().out
    clean(printed)
    assert printed.count("[red]\\x1b[31mtwo\\nlines\\udce9"[:20]) == 6 and "😺" not in printed
    assert printed.endswith("[red]\\x1b[31mtwo\\nlinescaf\\udce9:cat:\n")


def test_a_meter_shows_names_as_they_are(capsys):
    meter = Meter(2, 0)
    meter.report(2, {f"{ESC}[red]a": 1.0}, 5.0)
    meter.say(OSC)
    printed = capsys.readouterr().out
    clean(printed)
    assert "\\x1b[31m[red]a 1.000" in printed and "\\x1b]0;owned\\x07" in printed


def test_a_bar_on_a_terminal_shows_names_as_they_are(monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    with redirect_stdout(screen):
        meter = Meter(2, 0)
        meter.report(1, {f"{OSC}[red]a": 1.0}, 5.0)
        meter.close()
    assert "\\x1b]0;owned\\x07[red]a 1.000" in screen.getvalue() and BEL not in screen.getvalue()


def test_a_traceback_is_printable(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr("warnings.showwarning", None)
    guard_streams()
    sys.excepthook(ValueError, ValueError(f"{ESC}{RAW}"), None)
    printed = capsys.readouterr().err
    clean(printed)
    assert printed == "ValueError: \\x1b[31mcaf\\udce9\n"


def test_a_warning_is_printable(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr("warnings.showwarning", None)
    guard_streams()
    warnings.showwarning(UserWarning(f"{ESC}{RAW}"), UserWarning, "x.py", 1)
    printed = capsys.readouterr().err
    clean(printed)
    assert "UserWarning: \\x1b[31mcaf\\udce9" in printed


def test_a_letter_that_the_terminal_lacks_is_shown_as_its_escape(tmp_path):
    (tmp_path / "runs/猫").mkdir(parents=True)
    (tmp_path / "runs/猫/config.yaml").touch()
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-P", "-m", "ssl_kd", "runs"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
    assert b"Traceback" not in done.stderr and b"\\u732b" in done.stdout + done.stderr


ACTED_UPON = [
    "a;reboot",
    "$(id)",
    "`id`",
    "a&b",
    "a|b",
    "a>b",
    "a<b",
    "*",
    "a?",
    "!1",
    "~x",
    "#x",
    "{a,b}",
    "(a)",
]


@pytest.mark.parametrize("name", [*ACTED_UPON, "two words", "it's", 'a"', "a\\b", ESC, LINE, BIDI, RAW])
def test_the_tab_key_offers_no_name_that_a_shell_acts_upon(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in (Path("runs", f"a-{name}"), Path("runs/a-plain-Größe")):
        place.mkdir(parents=True)
        (place / "config.yaml").touch()
    Path("configs/recipe").mkdir(parents=True)
    Path(f"configs/recipe/own{name}.yaml").touch()
    Path("configs/recipe/own.yaml").touch()
    assert complete("ssl-kd knn run=") == ["run=runs/a-plain-Größe "]
    assert complete("ssl-kd compare runs/") == ["runs/a-plain-Größe "]
    assert complete("ssl-kd train recipe=ow") == ["recipe=own "]


@pytest.mark.parametrize("name", ["x;reboot", "$(id)", "two words", "it's"])
def test_a_command_that_a_refusal_advises_is_one_for_any_name(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = "train method=simclr tracker=none data.limit=64 batch_size=32 epochs=1 probe.linear=false".split()
    assert main([*words, "peers={a: {backbone: {name: resnet8, base: 4}}}", f"run={name}"]) == 0
    told = capsys.readouterr().out
    assert f"ssl-kd report {shlex.quote(f'run={name}')}; ssl-kd export" in told
    config = Path(name, "config.yaml")
    config.write_text(config.read_text().replace("ssl_kd.heads.mlp", "evil.head"))
    assert main(["knn", f"run={name}"]) == 2
    assert f"ssl-kd trust {shlex.quote(str(tmp_path / name))} shows" in capsys.readouterr().err
    assert main(["train", f"config={config}"]) == 2
    assert f"with {shlex.quote(f'run={name}')}\n" in capsys.readouterr().err
    for split in (f"{name} train", f"{name} test_x"):
        place = Path("images", split.replace("/", ""), "cat")
        place.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(place / "1.png")
    assert main(["train", *words[1:], "data=folder", "data.root=images", "data.size=8"]) == 2
    advised = (
        capsys.readouterr().err.partition("which is which, as ")[2].partition(", or data.splits=none")[0]
    )
    assert shlex.split(advised)[0].startswith("data.splits={train: ") and "$" not in advised.split("'")[0]


def test_nothing_is_printed_but_through_one_place():
    """A call of print() elsewhere would pass names on as they are."""
    allowed = {
        "system/text.py": 2,
        "console.py": 1,  # rich's own, after `render_str`
        "commands/runs_table.py": 1,  # cells that are printable, colours
    }
    for path in sorted(Path(ssl_kd.__file__).parent.rglob("*.py")):
        prints = len(re.findall(r"(?<![\w.])print\(|std(?:out|err)\.write\(", path.read_text()))
        assert prints == allowed.get(path.relative_to(Path(ssl_kd.__file__).parent).as_posix(), 0), path


def test_a_refusal_shows_the_name_as_it_is(capsys):
    assert main(["runs", f"folder=x{ESC}{LINE}"]) == 2
    said = capsys.readouterr().err
    clean(said)
    assert said.count("\n") == 1 and "x\\x1b[31mtwo\\nlines" in said


def test_print_line_keeps_to_one_line(capsys):
    print_line(Path(LINE))
    assert capsys.readouterr().out == "two\\nlines\n"


TRAIN = "train method=simclr tracker=none data=digits data.limit=64 batch_size=32 epochs=1 probe.linear=false"
WORDS = [
    *TRAIN.split(),
    "probe.knn=[1]",
    "probe.baselines=false",
    "peers={a: {backbone: {name: resnet8, base: 4}}}",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main([*WORDS, f"run={folder}"]) == 0
    return folder


def copied(run: Path, name: str, seed: int = 0, **said: object) -> Path:
    """The run under a name of a stranger's."""
    place = Path(os.fsdecode(name.encode("utf-8", "surrogateescape")))
    shutil.copytree(run, place)
    config = place / "config.yaml"
    config.write_text(re.sub(r"(?m)^seed: .*$", f"seed: {seed}", config.read_text()))
    for file, change in said.items():
        path = place / f"{file}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    return place


class Scripts(HTMLParser):
    """The page's policy, the scripts that would run, and what could run besides."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.policy, self.scripts, self.handlers, self.loads = "", [], [], []
        self._runs = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]
        self.handlers += [key for key in given if key.startswith("on")]
        self.loads += [given[key] for key in ("src", "href", "action", "data") if given.get(key)]
        self._runs = tag == "script" and given.get("type") != "application/json"

    def handle_data(self, data):
        if self._runs:
            self.scripts.append(data)
        self._runs = False


def check_page(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    clean(text.replace("\t", ""))
    read = Scripts(text)
    policy = {words.split()[0]: words.split()[1:] for words in read.policy.split(";")}
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in read.scripts]
    assert policy == {
        "default-src": ["'none'"], "img-src": ["data:"], "style-src": ["'unsafe-inline'"],
        "base-uri": ["'none'"], "form-action": ["'none'"], "script-src": [f"'sha256-{h}'" for h in hashes],
    }  # fmt: skip
    assert len(read.scripts) == 2 and not read.handlers
    assert text.index("Content-Security-Policy") < text.index(
        "<style>"
    )  # before anything that it is to forbid
    assert all(load.startswith(("#", "data:")) for load in read.loads), read.loads
    for chart in re.findall(r'<script type="application/json">(.*?)</script>', text, re.S):
        clean(json.dumps(json.loads(chart), ensure_ascii=False))
    return text


def test_a_comparison_of_runs_with_odd_names_is_made_and_shows_them(trained, capsys):
    odd, shown = (
        f"x{ESC}{OSC}{C1}{BIDI}{LINE}{RAW}<b>",
        "x\\x1b[31m\\x1b]0;owned\\x07\\x9b31m\\u202egnp.exetwo\\nlinescaf\\udce9",
    )
    folders = [copied(trained, f"{name}-{seed}", seed) for name in ("plain", odd) for seed in (0, 1)]
    for folder in folders[2:]:
        config = folder / "config.yaml"
        config.write_text(re.sub(r"temperature: [\d.]+", "temperature: 0.17", config.read_text()))
    assert main(["compare", *map(str, folders), "base=plain", "out=out"]) == 0
    printed = capsys.readouterr().out
    clean(printed)
    assert shown in printed
    made = {path.name for path in Path("out").iterdir()}
    assert made == {"comparison.json", "comparison.html", "comparison.svg"}
    assert f"{shown}&lt;b&gt;" in check_page(Path("out/comparison.html"))
    drawn = Path("out/comparison.svg").read_text()
    clean(drawn)
    ElementTree.fromstring(drawn)
    names = [group["name"] for group in json.loads(Path("out/comparison.json").read_text())["groups"]]
    assert names == ["plain", odd]


def test_runs_are_listed_under_names_that_are_seen(trained, capsys):
    folder = copied(trained, f"runs/{ESC}{RAW}", summary={"method": OSC}, status={"reason": BIDI})
    for words in ([], ["format=json"]):
        assert main(["runs", *words]) == 0
        printed = capsys.readouterr().out
        clean(printed)
        assert len(printed.splitlines()) == (1 if words else 6), printed
    assert json.loads(printed)["run"] == folder.name and "\\u202e" in printed


def test_a_report_shows_what_a_stranger_wrote_and_runs_nothing_of_it(trained):
    evil = f"{ESC}{BIDI}</script><script>alert(1)</script><a onclick='x'>{RAW}"
    folder = copied(trained, f"r{OSC}{BIDI}", summary={"checkpoint": evil})
    (folder / "eval").mkdir(exist_ok=True)
    scores = {
        "step": 2,
        "protocol": {evil: evil},
        "peers": {evil: {"finetune": {"accuracy": 0.5, "held_out": None, "rate": 1}}},
    }
    (folder / "eval/finetune.json").write_text(json.dumps(scores))
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    more = [{**first, "alarms": [evil], "terms": {f"{evil}/a": 1.0}, "health": {f"rank/{evil}": 2.0}}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in more))
    assert main(["report", f"run={folder}"]) == 0
    text = check_page(folder / "report.html")
    assert "\\x1b[31m\\u202egnp.exe&lt;/script&gt;" in text and "<script>alert" not in text


# What Vega asks of a browser while it lays a chart out; the chart itself is then a string.
_BROWSER = """
const answers = {clientWidth: 400, clientHeight: 200, nodeType: 1, length: 0, then: undefined};
const element = () => {
  const own = {...answers, getBoundingClientRect: () => ({width: 400, height: 200, top: 0, left: 0})};
  own[Symbol.toPrimitive] = () => "";
  return new Proxy(function () {}, {
    get: (_, key) => (key in own ? own[key] : element()), set: (_, key, value) => ((own[key] = value), true),
    apply: element, construct: element, has: () => true,
  });
};
class ShadowRoot {}
Object.assign(globalThis, {window: globalThis, document: element(), ShadowRoot});
Object.assign(globalThis, {requestAnimationFrame: setTimeout, devicePixelRatio: 1});
Object.assign(globalThis, {HTMLElement: class { static [Symbol.hasInstance]() { return true; } }});
Object.assign(globalThis, {getComputedStyle: () => ({getPropertyValue: () => "0", paddingLeft: "0"})});
Object.assign(globalThis, {addEventListener() {}, removeEventListener() {}});
const [bundle, ...charts] = process.argv.slice(1).map((name) => require("fs").readFileSync(name, "utf8"));
new (require("vm").Script)(bundle).runInThisContext();
(async () => {
  for (const chart of charts) {
    const options = {actions: false, ast: true, renderer: "none", tooltip: false};
    const { view } = await vegaEmbed(element(), JSON.parse(chart), options);
    console.log((await view.toSVG()).slice(0, 4));
  }
  process.exit(0);
})();
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node here")
def test_the_charts_are_drawn_where_nothing_may_be_compiled():
    """The policy forbids to compile what stands in a chart, so that Vega has to interpret it."""
    from ssl_kd.report.charts import lines
    from ssl_kd.report.comparison_charts import forest
    from ssl_kd.report.page import HERE, _scripts
    from ssl_kd.report.theme import styles

    assert re.search(r"options = \{[^}]*\bast: true", (HERE / "page.js").read_text())
    found = Difference("g", "a", "a", "linear", 0.01, -0.01, 0.03, 0.02, 0.71, 0.7, (0, 1), (0.0, 0.02))
    curves = lines({"a": [(0, 1), (1, 2)], "b": [(0, 2), (1, 5)]}, styles("ab"))
    for name, spec in (("one", curves), ("two", forest([found], ["linear"], 4.0, 1))):
        Path(f"{name}.json").write_text(json.dumps(spec))
    Path("bundle.js").write_text(_scripts()[0])
    node = ["node", "--disallow-code-generation-from-strings", "-e", _BROWSER]
    done = subprocess.run([*node, "bundle.js", "one.json", "two.json"], capture_output=True, text=True)
    assert done.stdout == "<svg\n<svg\n", done.stderr
