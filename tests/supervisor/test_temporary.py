"""A temporary directory for one child: there before it, gone after it, and after us."""

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stdio_broker.supervisor import Config, SpawnError, start
from stdio_broker.supervisor import temporary as temporary_module
from stdio_broker.supervisor.containment import Uncontained
from stdio_broker.supervisor.temporary import PREFIX, Temporary, remove_abandoned
from tests.supervisor.children import ready_line
from tests.supervisor.programs import run
from tests.support.processes import wait_until, wait_until_sync


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where temporary directories are made; nobody has looked for abandoned ones yet."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(temporary_module, "_looked", False)
    return tmp_path


def _made(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{PREFIX}*"))


@pytest.fixture
def temporary() -> Iterator[Temporary]:
    """Return one that is launched, and closed in the end."""
    made = Temporary(Uncontained())
    made.launch(["cat"], {})
    yield made
    made.close()


@pytest.mark.parametrize("containment", ["auto", "group", "shim"])
async def test_a_child_has_a_directory_of_its_own_that_goes_with_it(containment: str, folder: Path) -> None:
    script = 'echo x > "$TMPDIR/file"; mkdir "$TMP/folder"; echo "ready $TMPDIR $TMP $TEMP"; cat'
    config = Config(
        cmd=["sh", "-c", script],
        env={"TMPDIR": "/nowhere"},
        private_tmp=True,
        containment=containment,  # type: ignore[arg-type]
    )
    async with await start(config) as child, await start(config) as other:
        first, *same = (await ready_line(child)).decode().split()
        assert same == [first, first]
        second = (await ready_line(other)).decode().split()[0]
        assert sorted((first, second)) == [str(path) for path in _made(folder)]
        assert Path(first).stat().st_mode & 0o777 == 0o700
        await other.stop()
        await wait_until(lambda: not Path(second).exists(), what="removal of the other one's")
        assert Path(first, "file").exists()
    await wait_until(lambda: not _made(folder), what="removal")


async def test_without_being_asked_for_there_is_none(folder: Path) -> None:
    async with await start(Config(cmd=["cat"])):
        assert not _made(folder)


async def test_a_start_that_fails_leaves_none(folder: Path) -> None:
    with pytest.raises(SpawnError):
        await start(Config(cmd=["/no/such"], private_tmp=True))
    assert not _made(folder)


async def test_without_room_for_one_the_start_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "none"))
    with pytest.raises(SpawnError):
        await start(Config(cmd=["cat"], private_tmp=True))


def test_an_empty_one_needs_no_thread(
    temporary: Temporary, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "Thread", lambda **_: pytest.fail("a thread was started"))
    temporary.close()
    assert not _made(folder)
    temporary.close()


def test_a_child_may_remove_it_itself(temporary: Temporary, folder: Path) -> None:
    _made(folder)[0].rmdir()
    temporary.close()


def test_what_cannot_be_removed_is_reported(
    temporary: Temporary, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Something in it is another user's: the mode of the broker's own is no obstacle."""

    def refuse(path: str) -> None:
        raise PermissionError(1, "Operation not permitted", path)

    (_made(folder)[0] / "file").write_text("")
    monkeypatch.setattr(shutil, "rmtree", refuse)
    temporary.close()
    wait_until_sync(lambda: "temporary.left" in caplog.text, what="the report")


def test_nothing_outside_of_it_is_removed(temporary: Temporary, folder: Path) -> None:
    """A child may put links there."""
    outside = folder / "outside"
    outside.mkdir()
    (outside / "file").write_text("")
    (_made(folder)[0] / "link").symlink_to(outside)
    temporary.close()
    wait_until_sync(lambda: not _made(folder), what="removal")
    assert (outside / "file").exists()


def test_what_a_killed_broker_has_left_is_removed_by_the_next(folder: Path) -> None:
    result = run(
        """
        import tempfile
        tempfile.tempdir = command[0]

        async def main():
            config = Config(cmd=["sh", "-c", "echo > $TMPDIR/file; echo ready; cat"], private_tmp=True)
            await ready(await start(config))
            os.kill(os.getpid(), signal.SIGKILL)

        asyncio.run(main())
        """,
        str(folder),
    )
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert len(_made(folder)) == 1
    own = Temporary(Uncontained())
    own.launch(["cat"], {})
    assert len(_made(folder)) == 1
    own.close()
    assert not _made(folder)


def test_what_is_in_use_or_not_ours_is_left_alone(
    temporary: Temporary, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody could give a name like ours to something else."""
    (folder / f"{PREFIX}file").write_text("")
    (folder / f"{PREFIX}link").symlink_to("/")
    (folder / f"{PREFIX}dangling").symlink_to("none")
    before = _made(folder)
    remove_abandoned(folder)
    assert _made(folder) == before
    (folder / f"{PREFIX}theirs").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    remove_abandoned(folder)
    assert (folder / f"{PREFIX}theirs").exists()


def test_one_that_was_taken_for_abandoned_at_once_is_made_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between making and locking another broker may look."""
    make = tempfile.mkdtemp
    left = [2]

    def robbed(prefix: str) -> str:
        path = make(prefix=prefix)
        if left[0]:
            left[0] -= 1
            os.rmdir(path)  # noqa: PTH106 - a string
        return path

    monkeypatch.setattr(tempfile, "mkdtemp", robbed)
    own = Temporary(Uncontained())
    _, env = own.launch(["cat"], {})
    assert [str(path) for path in _made(folder)] == [env["TMPDIR"]]
    own.close()
    left[0] = 1000
    with pytest.raises(OSError, match="taken for abandoned at once"):
        own.launch(["cat"], {})
    own.close()


def test_one_that_was_removed_before_it_was_locked_is_not_ours(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is on what was opened, and the name may be gone, or another's."""
    monkeypatch.setattr(os.path, "samestat", lambda *_: False)
    with pytest.raises(OSError, match="taken for abandoned at once"):
        Temporary(Uncontained()).launch(["cat"], {})
