"""One HTML file that needs nothing else: no network, no server, no other file."""

import base64
import contextlib
import functools
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from ssl_kd import __version__
from ssl_kd.errors import InputError
from ssl_kd.report import theme
from ssl_kd.report.blocks import script_json, templates
from ssl_kd.system.documents import text_of
from ssl_kd.system.paths import cache_folder
from ssl_kd.system.text import printable
from ssl_kd.system.writing import write_whole

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Section:
    """A heading, one sentence that says what is shown and how to read it, and blocks."""

    title: str
    lead: str
    blocks: Sequence[Markup]

    @property
    def anchor(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Page:
    """kind: what sort of page it is, above its title."""

    title: str
    kind: str
    lead: str
    sections: Sequence[Section]


def write(page: Page, path: Path) -> Path:
    """Writes the page, whole or not at all; returns `path`."""
    charts = any('class="plot' in block for section in page.sections for block in section.blocks)
    scripts = _scripts() if charts else []
    html = (
        templates()
        .get_template("page.html")
        .render(
            page=page,
            version=__version__,
            light=Markup(theme.variables(dark=False)),
            dark=Markup(theme.variables(dark=True)),
            style=Markup((HERE / "style.css").read_text(encoding="utf-8")),
            scripts=list(map(Markup, scripts)),
            policy=policy(scripts),
            charts=charts,
        )
    )
    write_whole(path, _seen(html.strip()) + "\n", inside=path.parent)
    return path


def policy(scripts: Sequence[str]) -> str:
    """What a browser allows the page (Content-Security-Policy): its styles, the images in it, these scripts.

    No address is allowed, and no other script, whatever a name in the page may smuggle in.
    """
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{found}'" for found in hashes) or "'none'"
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
        f"script-src {allowed}"
    )


def _scripts() -> list[str]:
    own = (HERE / "page.js").read_text(encoding="utf-8")
    return [_seen(_bundle()), _seen(f"const CONFIG = {script_json(theme.vega())};\n{own}")]


def _seen(html: str) -> str:
    """The page without characters that are not seen, lines and tabs apart, also where a block forgot it."""
    return re.sub(r"[^\n\t]+", lambda found: printable(found[0]), html)


@functools.cache
def _bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, about 0.9 MB; kept, since it takes 1.5 s to make."""
    from importlib.metadata import version

    import vl_convert

    from ssl_kd.report.charts import vega_lite

    kept = (
        cache_folder() / "scripts" / f"vega-lite-{vega_lite()}-vl_convert-{version('vl-convert-python')}.js"
    )
    with contextlib.suppress(InputError):  # not there, damaged, or anything but a file
        said, _, script = text_of(kept).partition("\n")
        if said == _digest(script):
            return script
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=vega_lite())
    script = script.replace("</script", "<\\/script").replace("<!--", "<\\!--")
    with contextlib.suppress(OSError, InputError):  # it is made again
        write_whole(kept, f"{_digest(script)}\n{script}", mode=0o600)
    return script


def _digest(script: str) -> str:
    """The first line of a script that is kept, by which damage is noticed."""
    return f"// sha256 {hashlib.sha256(script.encode()).hexdigest()}"
