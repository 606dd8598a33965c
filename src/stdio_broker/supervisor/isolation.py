"""How far a child is kept from everything else: five levels, each a rewriter of the command.

=========  ==================================================================================
none       nothing is added: a session of its own, closed descriptors, no core dump
limits     `Limits`, and no rights by set-uid programs (setpriv, where it is installed)
landlock   `landlock_process` in front: files, signals, tracing, TCP; no further process
bwrap      bubblewrap: namespaces of its own, in which nothing else is there at all
wrapper    a command line of the operator's own
=========  ==================================================================================

Nothing is weaker than asked without a word: what a level cannot do is refused when it is asked for, and
what this machine cannot do fails `probe`, and the start. No shell is involved, secrets stay in the
environment, and stdin, stdout and stderr are the child's own at every level.

bubblewrap stays in front of the child, as its parent and as process 1 of its own numbers, so three
things take care. It must live when our SIGTERM comes to the process group, or it would take the child
with it by SIGKILL: env(1) starts it with that signal ignored, and the child with it as usual. The child
must be in that group: no `--new-session`, which is there to keep a child from its terminal, and ours has
a session of its own and no terminal. And it tells an end by signal N as exit code 128 + N, which
`Config.signal_codes` takes back.

Source: bwrap(1), setpriv(1), env(1) of GNU coreutils 8.31, landlock(7).
"""

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from ..errors import IsolationUnavailable, SpawnError
from . import landlock_process
from .child import start
from .config import Config
from .environment import build_environment
from .limits import Limits

__all__ = ["Isolation", "IsolationLevel", "isolate", "limits_of_none", "probe"]

IsolationLevel = Literal["none", "limits", "landlock", "bwrap", "wrapper"]

#: Stands for the command and its arguments in `Isolation.wrapper`.
COMMAND = "{cmd}"

#: Where programs and their libraries are. Links among these (/bin → usr/bin) stay links.
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")

#: What programs need of /etc. Not all of it: there are keys in it, and maybe our own configuration.
ETC = (
    *("alternatives", "ca-certificates", "crypto-policies", "debian_version", "gai.conf", "group"),
    *("host.conf", "hostname", "hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime"),
    *("mime.types", "networks", "nsswitch.conf", "os-release", "passwd", "pki/ca-trust", "pki/tls/certs"),
    *("pki/tls/cert.pem", "protocols", "resolv.conf", "services", "ssl/cert.pem", "ssl/certs"),
    *("ssl/openssl.cnf", "terminfo", "timezone"),
)

#: Seconds that a probe may take.
PROBE_TIMEOUT = 10.0

#: The temporary directory in bubblewrap's file system.
TMP = "/tmp"  # noqa: S108 - nobody else is there

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """How a child is isolated.

    Args:
        level: See the module's docstring.
        read_only: Absolute paths that the child may read and execute, besides the system's programs
            and libraries. For landlock and bwrap, like the three that follow.
        read_write: Absolute paths that it may change, besides its working directory (if one is
            configured) and a temporary directory of its own. In bwrap what lies deeper wins.
        network: Whether it may use the network. False cuts all of it off in bwrap; TCP in landlock.
        tmp_bytes: Size of the temporary directory in bwrap, in bytes, 1 MiB or more. It is memory.
        wrapper: For level "wrapper": program and arguments, of which exactly one is "{cmd}" and
            stands for the command and its arguments.
        limits: What it may use. At level "none" only `core_bytes` of the defaults is kept.

    Raises:
        ValueError: A value is out of range, or the level could not honour it; the message names the
            field, and what it expects.
    """

    level: IsolationLevel = "limits"
    read_only: tuple[str, ...] = ()
    read_write: tuple[str, ...] = ()
    network: bool = True
    tmp_bytes: int = 256 * _MIB
    wrapper: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        """Check every field; the first mistake is named."""
        if self.level not in get_args(IsolationLevel):
            names = ", ".join(f'"{name}"' for name in get_args(IsolationLevel))
            raise ValueError(f"level: expected one of {names}, found {self.level!r}")
        for name in ("read_only", "read_write"):
            _check_paths(name, getattr(self, name))
        if self.tmp_bytes < _MIB:
            raise ValueError(f"tmp_bytes: expected {_MIB} or more, found {self.tmp_bytes!r}")
        _check_wrapper(self.level, self.wrapper)
        if self.level not in {"landlock", "bwrap"}:
            for name in ("read_only", "read_write"):
                if getattr(self, name):
                    raise ValueError(f'{name}: expected none with level "{self.level}", which hides no files')
            if not self.network:
                raise ValueError(
                    f'network: expected true with level "{self.level}", which cannot cut it off, found false'
                )
        if self.level == "landlock":
            _check_nesting(self.read_only, self.read_write)


def _check_list(name: str, value: object) -> None:
    # A lone string is a sequence too, of letters: the classic mistake.
    if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{name}: expected a tuple of strings, found {value!r}")


def _check_paths(name: str, paths: tuple[str, ...]) -> None:
    _check_list(name, paths)
    for path in paths:
        if (
            os.path.normpath(path) != path
            or not path.startswith("/")
            or path.startswith("//")
            or "\0" in path
        ):
            raise ValueError(f"{name}: expected absolute paths without . and .., found {path!r}")


def _check_wrapper(level: str, wrapper: tuple[str, ...]) -> None:
    _check_list("wrapper", wrapper)
    if level != "wrapper":
        if wrapper:
            raise ValueError(f'wrapper: expected none with level "{level}", found {list(wrapper)}')
    elif wrapper.count(COMMAND) != 1 or wrapper[0] in {"", COMMAND}:
        raise ValueError(
            f'wrapper: expected a program and arguments, one of them "{COMMAND}", found {list(wrapper)}'
        )


def _check_nesting(read_only: Iterable[str], read_write: Iterable[str]) -> None:
    """Landlock adds up what the folders around a path allow: nothing can be taken back inside."""
    for inner in read_only:
        for outer in read_write:
            if _is_within(inner, outer):
                raise ValueError(
                    f"read_only: with landlock expected none inside read_write, found {inner!r} in {outer!r}"
                )


def isolate(config: Config, isolation: Isolation) -> Config:
    """Return what to run instead, so that the child is isolated. Looks for programs, and starts none.

    Raises:
        SpawnError: The command is not there, or is hidden from the child.
        IsolationUnavailable: What isolates it is not installed. A `SpawnError`, too.
        ValueError: The level cannot do what the configuration asks for.
    """
    if isolation.level == "none":
        return replace(config, limits=limits_of_none(isolation.limits))
    config = replace(config, limits=isolation.limits)
    if isolation.level == "wrapper":
        return replace(config, cmd=list(_wrapped(isolation.wrapper, config)))
    argv = [_find(config), *(os.fspath(argument) for argument in config.cmd[1:])]
    if isolation.level == "limits":
        setpriv = shutil.which("setpriv")
        return replace(config, cmd=[setpriv, "--no-new-privs", "--", *argv] if setpriv else argv)
    if isolation.level == "landlock":
        return _in_landlock(config, isolation, argv)
    return _in_bwrap(config, isolation, argv)


def limits_of_none(limits: Limits) -> Limits:
    """Return the limits at level "none", which touches nothing by itself; but a core holds the credential."""
    default = Limits().oom_score_adj
    return replace(limits, oom_score_adj=None) if limits.oom_score_adj == default else limits


def _wrapped(wrapper: Iterable[str], config: Config) -> Iterator[str]:
    for word in wrapper:
        if word == COMMAND:
            yield from (os.fspath(argument) for argument in config.cmd)
        else:
            yield word


def _find(config: Config) -> str:
    """Return the absolute path of the child's program: what stands in front of it has another PATH."""
    program = os.fspath(config.cmd[0])
    if "/" in program:
        path = str(Path(config.cwd or "").absolute() / program)
        if not (os.path.isfile(path) and os.access(path, os.X_OK)):  # noqa: PTH113 - a string, as above
            raise SpawnError(program, "there is no such file, or it is not executable")
        return path
    env = build_environment(os.environ, inherit=config.inherit_env, overrides=config.env)
    search = env.get("PATH", os.defpath)
    found = shutil.which(program, path=search)
    if found is None:
        raise SpawnError(program, f"there is no such command on the child's PATH ({search})")
    return os.path.abspath(found)  # noqa: PTH100 - as above


def _in_landlock(config: Config, isolation: Isolation, argv: list[str]) -> Config:
    if not sys.executable:
        raise IsolationUnavailable(argv[0], "it needs an interpreter to run the launcher", level="landlock")
    writable = [*isolation.read_write, *_own_folder(config, isolation)]
    _check_nesting(isolation.read_only, writable)
    readable = [*_system(), *isolation.read_only]
    _refuse_hidden(argv[0], [*readable, *writable])
    rules = [word for path in readable for word in ("--read", path)]
    rules += [word for path in writable for word in ("--write", path)]
    return replace(
        config,
        cmd=[
            *(sys.executable, "-I", "-S", "-E", landlock_process.__file__),
            *rules,
            *(() if isolation.network else ("--no-network",)),
            # Its own numbers, and what it runs on. Others' environments stay closed: that is tracing.
            *("--read", "/proc", "--tmpdir", "--", *argv),
        ],
        # Ours may be where the child may not look.
        cwd=config.cwd if config.cwd is not None else "/",
        private_tmp=True,
    )


def _in_bwrap(config: Config, isolation: Isolation, argv: list[str]) -> Config:
    if config.orphans == "leave":
        raise ValueError('orphans: expected "kill" with isolation "bwrap", found "leave"')
    bwrap, env = (_tool(name, argv[0]) for name in ("bwrap", "env"))
    folders = _own_folder(config, isolation)
    # What lies deeper comes later, and so wins.
    binds = sorted(
        [(path, "--ro-bind") for path in isolation.read_only]
        + [(path, "--bind") for path in (*isolation.read_write, *folders)]
    )
    for path, _ in binds:
        if path == "/" or _is_within(path, "/proc"):
            raise ValueError(
                f"read_only, read_write, cwd: expected none that brings back what bwrap hides, found {path}"
            )
    visible = [*SYSTEM, *(path for path, _ in binds)]
    for program in (argv[0], env):
        _refuse_hidden(program, visible)
    if "=" in argv[0]:
        raise SpawnError(argv[0], 'env(1), which starts it in bwrap, takes a path with "=" for a variable')
    # Ours may name a folder that is not there.
    tmp = {"TMPDIR": TMP} if "TMPDIR" not in config.env else {}
    cwd = TMP if config.cwd is None else str(Path(config.cwd).absolute())
    return replace(
        config,
        cmd=[
            *(env, "--ignore-signal=TERM", bwrap),
            *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"),
            *(() if isolation.network else ("--unshare-net",)),
            *("--die-with-parent", "--cap-drop", "ALL"),
            *_file_system(isolation.tmp_bytes),
            *(word for path, option in binds for word in (option, path, path)),
            # Last: the mount points above had to be made. Both are memory that nobody counts.
            *("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", cwd),
            *("--", env, "--default-signal=TERM", *argv),
        ],
        cwd=None,
        env={**config.env, **tmp},
        signal_codes=True,
    )


def _file_system(tmp_bytes: int) -> Iterator[str]:
    """Yield bwrap's options for what every child sees."""
    for path in SYSTEM:
        if os.path.islink(path):  # noqa: PTH114 - as above
            yield from ("--symlink", os.readlink(path), path)  # noqa: PTH115 - as above
        elif os.path.isdir(path):  # noqa: PTH112 - as above
            yield from ("--ro-bind", path, path)
    for path in _etc():
        yield from ("--ro-bind", path, path)
    yield from ("--proc", "/proc", "--dev", "/dev")
    for path in ("/dev/shm", TMP):  # noqa: S108 - nobody else is there
        yield from ("--size", str(tmp_bytes), "--tmpfs", path)


def _system() -> list[str]:
    return [path for path in SYSTEM if os.path.isdir(path)] + _etc()  # noqa: PTH112 - as above


def _etc() -> list[str]:
    return [path for path in (f"/etc/{name}" for name in ETC) if os.path.exists(path)]  # noqa: PTH110 - as above


def _own_folder(config: Config, isolation: Isolation) -> list[str]:
    """Return the working directory, if it is the child's to change: one is configured, and not read-only."""
    if config.cwd is None:
        return []
    path = str(Path(config.cwd).absolute())
    return [] if any(_is_within(path, other) for other in isolation.read_only) else [path]


def _tool(name: str, program: str) -> str:
    if (path := shutil.which(name)) is None:
        raise IsolationUnavailable(program, f"{name} is not installed, or not on our PATH", level="bwrap")
    return os.path.abspath(path)  # noqa: PTH100 - as above


def _refuse_hidden(program: str, visible: Iterable[str]) -> None:
    """Check that the child can see the program: both where it is named and where it is."""
    paths = [*visible]
    for path in (program, os.path.realpath(program)):
        if not any(_is_within(path, other) for other in paths):
            raise SpawnError(program, f"the child may not see {path}; add a folder around it to read_only")


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


async def probe(isolation: Isolation) -> None:
    """Check that this machine can isolate a child like this, by isolating one that does nothing.

    Of level "wrapper" it is only checked that the wrapper is there: it may run things elsewhere.

    Raises:
        IsolationUnavailable: It cannot; the message says why.
    """
    name = isolation.wrapper[0] if isolation.level == "wrapper" else "true"
    if shutil.which(name) is None:
        raise IsolationUnavailable(name, "there is no such command on our PATH", level=isolation.level)
    if isolation.level == "wrapper":
        return
    try:
        child = await start(isolate(Config(cmd=["true"]), isolation))
    except IsolationUnavailable:
        raise
    except SpawnError as exc:
        raise IsolationUnavailable(name, exc.reason, level=isolation.level) from exc
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PROBE_TIMEOUT):
                await child.wait()
    finally:
        status = await child.stop(eof_grace=0, stop_grace=0)
    if status.code != 0:
        reason = child.stderr_tail[-1] if child.stderr_tail else f"the child {status}"
        raise IsolationUnavailable(name, reason, level=isolation.level)
