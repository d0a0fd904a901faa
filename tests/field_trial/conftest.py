"""Every case begins in an empty folder, with a home of its own."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _alone(own_folder, monkeypatch, tmp_path_factory):
    """The current folder is empty but for `home`; nothing of the machine's user is read or written.

    The cache of hashes lies elsewhere: it keeps files that are some seconds old, so on how fast a test is
    would depend whether it is written.
    """
    home = Path("home").absolute()
    home.mkdir()
    for name in ("SSL_KD_TRUST", "SSL_KD_DATA", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
