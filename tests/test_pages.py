"""What the README and the documentation tell a reader to type is understood; tests/stages types it all."""

import pytest

from tests.pages import blocks, commands, pages, understood


@pytest.mark.parametrize("page", pages())
def test_what_a_page_says_to_type_is_understood(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not list(understood(page))


def test_the_readme_says_what_to_type():
    typed = [
        words
        for _, _, language, text in blocks("README.md")
        if language == "bash"
        for words in commands(text)
    ]
    assert sum(words[:2] == ["ssl-kd", "train"] for words in typed) > 10


def test_a_word_that_is_no_option_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.pages.ROOT", tmp_path)
    (tmp_path / "page.md").write_text("```bash\nssl-kd trian\nssl-kd train epocs=1\n```\n")
    assert [line.split(": ", 1)[1] for line in understood("page.md")] == [
        "there is no command trian",
        '"epocs" is not an option; did you mean "epochs"?',
    ]
