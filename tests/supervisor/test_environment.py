"""A child sees the variables it needs, and those that its configuration names; never all of ours."""

from hypothesis import given
from hypothesis import strategies as st

from stdio_broker.supervisor import MINIMAL, build_environment

OURS = {
    "HOME": "/home/me",
    "PATH": "/bin",
    "LC_ALL": "C",
    "LC_TIME": "de_DE",
    "LANG": "C",
    "LCX": "no locale",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "DATABASE_URL": "postgres://user:secret@host",
}
VALUES = st.sampled_from(["", "1", "a=b"])
NAMES = st.sampled_from([*OURS, "NEW", "OTHER"])


def test_minimal_lets_through_what_programs_need_and_no_secret() -> None:
    """Design decision 8. The seed gave every child the whole environment (its bug 14)."""
    assert build_environment(OURS, inherit="minimal", overrides={}) == {
        "HOME": "/home/me",
        "PATH": "/bin",
        "LC_ALL": "C",
        "LC_TIME": "de_DE",
        "LANG": "C",
    }


def test_minimal_names_the_variables_that_private_certificate_authorities_need() -> None:
    assert {"SSL_CERT_FILE", "SSL_CERT_DIR"} <= set(MINIMAL)


def test_all_lets_everything_through() -> None:
    assert build_environment(OURS, inherit="all", overrides={}) == OURS


def test_a_list_lets_through_what_it_names_by_name_or_prefix() -> None:
    env = build_environment(OURS, inherit=["DATABASE_URL", "LC_*", "MISSING"], overrides={})
    assert env == {"DATABASE_URL": OURS["DATABASE_URL"], "LC_ALL": "C", "LC_TIME": "de_DE"}


def test_an_empty_list_lets_nothing_through() -> None:
    assert build_environment(OURS, inherit=[], overrides={}) == {}


def test_overrides_win_and_none_unsets() -> None:
    """The seed could not unset a variable (its bug 14)."""
    env = build_environment(
        OURS, inherit=["HOME", "PATH"], overrides={"HOME": "/", "PATH": None, "NEW": "1", "OTHER": None}
    )
    assert env == {"HOME": "/", "NEW": "1"}


@given(
    ours=st.dictionaries(NAMES, VALUES),
    inherit=st.one_of(st.sampled_from(["minimal", "all"]), st.lists(NAMES)),
    overrides=st.dictionaries(NAMES, st.one_of(st.none(), VALUES)),
)
def test_every_variable_comes_from_an_override_or_is_inherited_unchanged(
    ours: dict[str, str], inherit: list[str], overrides: dict[str, str | None]
) -> None:
    before = dict(ours)
    env = build_environment(ours, inherit=inherit, overrides=overrides)
    assert ours == before
    for name, value in env.items():
        assert value == overrides.get(name, ours.get(name))
    for name, override in overrides.items():
        assert env.get(name) == override
