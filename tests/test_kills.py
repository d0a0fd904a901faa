"""A run that is killed by SIGKILL and resumed is the one that was not. tests/long has twenty of these."""

import pytest

from tests.kills import killed, undisturbed


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills")
    return folder, {name: undisturbed(name, folder / _made(folder, name)) for name in ("dogo", "ssl_kd")}


def _made(folder, name):
    (folder / name).mkdir()
    return name


@pytest.mark.parametrize(
    ("name", "share"), [("dogo", 0.3), ("dogo", None), ("ssl_kd", 0.6), ("ssl_kd", None)]
)
def test_a_run_that_was_killed_ends_as_the_one_that_was_not(whole, name, share):
    folder, references = whole
    found = killed(name, folder / name, f"cut-{share}", references[name], share)
    assert found["equal"], found
    assert share is not None or found["killed"] == "while saving", found
