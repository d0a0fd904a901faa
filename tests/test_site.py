"""The documentation site: built without a warning, a page for each method, nothing fetched from elsewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ssl_kd.groups import choices

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.parametrize("name", choices("method"))
def test_every_method_has_a_page_with_its_source_picture_edges_and_file(site, name):
    page = (site / "methods" / name / "index.html").read_text()
    assert "<svg" in page and "<pre" in page and f"configs/method/{name}.yaml" in page
    assert page.count("<tr>") >= 2 and 'id="objective"' in page and 'id="commands"' in page
    assert f'href="{name}/"' in (site / "methods/index.html").read_text()


def test_no_page_fetches_anything_from_elsewhere(site):
    for page in site.rglob("*.html"):
        fetched = re.findall(r'<(?:script|img|iframe)[^>]* src="([^"]+)"', page.read_text())
        fetched += re.findall(r'<link[^>]* rel="stylesheet"[^>]*href="([^"]+)"', page.read_text())
        fetched += re.findall(r'<link[^>]*href="([^"]+)"[^>]* rel="stylesheet"', page.read_text())
        assert not [address for address in fetched if address.startswith(("http", "//"))], page
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert not re.findall(r"url\(\"?(?:https?:)?//|@import", styles)


def test_every_public_name_is_on_the_page_of_the_python_api(site):
    import ssl_kd

    page = (site / "api/index.html").read_text()
    for name in ssl_kd.__all__:
        assert re.search(rf'id="ssl_kd\.(\w+\.)?{name}"', page), name
