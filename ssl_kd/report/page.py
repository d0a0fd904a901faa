"""One HTML file that needs nothing else: no network, no server, no other file."""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from ssl_kd import __version__
from ssl_kd.report import theme
from ssl_kd.report.blocks import script_json, templates
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
    html = (
        templates()
        .get_template("page.html")
        .render(
            page=page,
            version=__version__,
            light=Markup(theme.variables(dark=False)),
            dark=Markup(theme.variables(dark=True)),
            style=Markup((HERE / "style.css").read_text(encoding="utf-8")),
            script=Markup((HERE / "page.js").read_text(encoding="utf-8")),
            config=script_json(theme.vega()),
            bundle=Markup(_bundle()) if charts else "",
            charts=charts,
        )
    )
    write_whole(path, html.strip() + "\n", inside=path.parent)
    return path


@functools.cache
def _bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, about 0.9 MB."""
    import vl_convert

    from ssl_kd.report.charts import vega_lite

    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=vega_lite())
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")
