from pathlib import Path

from pipeline_tasks.stack.layout import StackLayout, source_root


def test_sockets_lie_below_the_home_when_the_path_is_short():
    assert StackLayout(home=Path("/srv/d"), root=Path("/r")).socket == Path("/srv/d/supervisor/run/supervisor.sock")


def test_a_long_home_gets_a_short_folder_of_its_own_for_sockets():
    layout = StackLayout(home=Path("/srv") / ("x" * 100), root=Path("/r"))
    two = StackLayout(home=Path("/srv") / ("y" * 100), root=Path("/r"))
    assert len(str(layout.socket)) < 100
    assert layout.socket != two.socket
    assert layout.socket == StackLayout(home=layout.home, root=Path("/other")).socket


def test_the_length_counts_bytes_not_characters():
    home = Path("/srv") / ("ü" * 40)
    assert not str(StackLayout(home=home, root=Path("/r")).socket).startswith(str(home))


def test_the_source_root_is_this_checkout():
    assert (source_root() / "pyproject.toml").exists()
