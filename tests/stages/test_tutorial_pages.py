"""What the tutorials tell a reader to type works."""

import pytest

from tests.pages import TUTORIALS, pages
from tests.test_pages import check


@pytest.mark.parametrize("page", [page for page in pages() if page.startswith(TUTORIALS)])
def test_what_a_tutorial_says_to_type_works(page, tmp_path, monkeypatch):
    check(page, tmp_path, monkeypatch)
