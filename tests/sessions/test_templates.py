"""Environment templates: what can be put into a child's environment, and what cannot."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_broker.sessions import Principal
from stdio_broker.sessions.templates import (
    MAX_VALUE_BYTES,
    EnvironmentTemplate,
    Rendered,
    RenderError,
    TemplateError,
    flaw_of,
)

ANNA = Principal(issuer="https://id.example.com", subject="anna")
TOKEN = "c4n4ry-t0k3n"  # noqa: S105 - no secret

ALL_TEMPLATES = "${credential.token}, ${principal.name}, ${principal.issuer}, ${secret:NAME}"

#: Whatever may come from a user or a provider, halves of characters included.
any_text = st.text(st.characters(exclude_categories=()), max_size=40)


def render(
    variables: dict[str, str],
    principal: Principal = ANNA,
    token: str | None = TOKEN,
    secrets: dict[str, str] | None = None,
) -> Rendered:
    template = EnvironmentTemplate.parse(variables)
    return template.render(principal=principal, token=token, secrets=secrets or {})


def problems_of(variables: dict[str, str]) -> tuple[str, ...]:
    with pytest.raises(TemplateError) as caught:
        EnvironmentTemplate.parse(variables)
    return caught.value.problems


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("", ""),
        ("plain", "plain"),
        ("${credential.token}", TOKEN),
        ("Bearer ${credential.token}", f"Bearer {TOKEN}"),
        ("${principal.name}@${principal.issuer}", "anna@https://id.example.com"),
        ("x${secret:db.pass-word_2}y", "xs3cr3ty"),
        ("costs $$5, or $5, or $HOME", "costs $5, or $5, or $HOME"),
        ("$${principal.name}", "${principal.name}"),
        ("$$${principal.name}$", "$anna$"),
        ("{principal.name}", "{principal.name}"),
    ],
)
def test_each_template_becomes_what_it_stands_for(template: str, value: str) -> None:
    """Design, section 5, "Environment templates"."""
    rendered = render({"VALUE": template}, secrets={"db.pass-word_2": "s3cr3t"})
    assert rendered.variables == {"VALUE": value}


def test_a_template_tells_what_it_is_made_of() -> None:
    """Ours: who needs no credential is not asked for one."""
    plain = EnvironmentTemplate.parse({"A": "x", "B": "$${credential.token}"})
    assert (plain.needs_credential, plain.needs_principal, plain.secret_names) == (False, False, frozenset())
    assert EnvironmentTemplate.parse({"A": "${credential.token}"}).needs_credential
    assert EnvironmentTemplate.parse({"A": "${principal.name}"}).needs_principal
    assert EnvironmentTemplate.parse({"A": "${principal.issuer}"}).needs_principal
    mixed = EnvironmentTemplate.parse({"A": "${secret:a}${secret:b}", "B": "${secret:a}"})
    assert not mixed.needs_principal
    assert mixed.secret_names == {"a", "b"}
    assert mixed.names == ("A", "B")


def test_what_was_put_in_is_known_as_a_secret_and_nothing_else_is() -> None:
    """Identity reference, section 9.6: known secret values of this child are redacted."""
    variables = {"A": "Bearer ${credential.token}", "B": "${secret:db}", "C": "${principal.name} public"}
    assert render(variables, secrets={"db": "s3cr3t", "other": "0th3r"}).secrets == {TOKEN, "s3cr3t"}
    assert render({"C": "${principal.name}"}).secrets == frozenset()


def test_nothing_secret_is_in_a_repr() -> None:
    """Ours: a repr ends in a log sooner or later."""
    variables = {"A": "inline-s3cr3t ${credential.token}", "B": "${secret:db}"}
    template = EnvironmentTemplate.parse(variables)
    rendered = render(variables, secrets={"db": "n4m3d"})
    shown = repr(template) + repr(rendered)
    assert not any(secret in shown for secret in ("inline-s3cr3t", TOKEN, "n4m3d"))


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("${credential.tokn}", "A: found ${credential.tokn}, expected ${credential.token}"),
        ("${principal.Name}", "A: found ${principal.Name}, expected ${principal.name}"),
        ("${secrets:db}", "A: found ${secrets:db}, expected ${secret:db}"),
        ("${secret.db}", "A: found ${secret.db}, expected ${secret:db}"),
        (
            "${HOME}",
            f"A: found ${{HOME}}, expected one of {ALL_TEMPLATES}",
        ),
        (
            "pa${sswo rd}",
            "A: found a `${` that begins no template; expected `$${` for the text `${`",
        ),
        ("${credential.token", "A: found a `${` that begins no template; expected `$${` for the text `${`"),
        ("${}", "A: found a `${` that begins no template; expected `$${` for the text `${`"),
        ("${secret:}", "A: found ${secret:}, expected ${secret:NAME}"),
        ("\n${principal.name}", "A: expected no control characters, such as line ends, around a template"),
        ("a\0b", "A: expected text without NUL, which no variable can hold"),
    ],
)
def test_a_mistake_is_named_with_what_was_expected(template: str, problem: str) -> None:
    """Issue 5: refused with the nearest known one."""
    assert problems_of({"A": template}) == (problem,)


def test_all_mistakes_are_reported_at_once() -> None:
    """Issue 5: all mistakes at once."""
    variables = {"1A": "x", "B": "${foo}${bar}", "PATH": "${credential.token}"}
    assert [problem.split(":")[0] for problem in problems_of(variables)] == ["1A", "B", "B", "PATH"]


def test_a_password_with_a_dollar_and_a_brace_is_not_shown() -> None:
    """Ours: what is wrong may be an inline secret."""
    assert "hunter" not in str(problems_of({"A": "hunter${2!hunter}"}))


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A=B", "Ä", "A\n"])
def test_a_name_that_no_variable_has_is_refused(name: str) -> None:
    """POSIX, "Environment Variable Definition": names are letters, digits and underscores."""
    assert "expected a name of letters" in problems_of({name: "x"})[0]


@pytest.mark.parametrize(
    "name",
    [
        *("LD_PRELOAD", "LD_LIBRARY_PATH", "DYLD_INSERT_LIBRARIES", "GLIBC_TUNABLES", "GCONV_PATH"),
        *("PATH", "HOME", "SHELL", "IFS", "ENV", "BASH_ENV", "BASH_FUNC_x", "SHELLOPTS", "TMPDIR"),
        *("PYTHONPATH", "PYTHONSTARTUP", "NODE_OPTIONS", "NODE_PATH", "PERL5OPT", "PERL5LIB", "PERLLIB"),
        *("RUBYOPT", "RUBYLIB", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "CLASSPATH"),
        *("MAVEN_OPTS", "DOTNET_STARTUP_HOOKS", "LUA_INIT", "PHPRC", "ERL_FLAGS", "GODEBUG", "GOFLAGS"),
        *("GIT_SSH_COMMAND", "GIT_CONFIG_COUNT", "SSH_ASKPASS", "SUDO_ASKPASS", "EDITOR", "PAGER", "BROWSER"),
        *("HTTP_PROXY", "http_proxy", "Https_Proxy", "ALL_PROXY", "no_proxy", "SSL_CERT_FILE"),
        *("REQUESTS_CA_BUNDLE", "OPENSSL_CONF", "npm_config_registry", "XDG_CONFIG_HOME", "KRB5_CONFIG"),
        "STDIO_BROKER_CHILD",
    ],
)
@pytest.mark.parametrize("template", ["${credential.token}", "x${principal.name}", "${principal.issuer}"])
def test_what_a_user_brings_cannot_choose_what_is_executed(name: str, template: str) -> None:
    """Threat T16; identity reference, section 9.6."""
    (problem,) = problems_of({name: template})
    assert problem.startswith(f"{name}: expected no value that depends on the principal, found ${{")


def test_the_operator_may_choose_what_is_executed() -> None:
    """Ours: the rule is about who chooses."""
    variables = {
        "PATH": "/opt/bin",
        "NODE_OPTIONS": "--max-old-space-size=64",
        "SSL_CERT_FILE": "${secret:ca}",
    }
    rendered = render(variables, secrets={"ca": "/etc/ca.pem"})
    assert rendered.variables == variables | {"SSL_CERT_FILE": "/etc/ca.pem"}


@pytest.mark.parametrize(
    "name", ["FORGEJO_ACCESS_TOKEN", "GITHUB_TOKEN", "USER_NAME", "PROXY_USER", "API_KEY"]
)
def test_ordinary_names_are_for_what_a_user_brings(name: str) -> None:
    """Ours: the rule must not be in the way."""
    assert render({name: "${credential.token}"}).variables == {name: TOKEN}


def test_constants_are_the_operators_as_they_stand() -> None:
    """Ours: a certificate has many lines, and may be long; an empty value means something, too."""
    variables = {"CERTIFICATE": "-----BEGIN\n" + "A" * 9000, "EMPTY": "", "BELL": "\a"}
    assert render(variables).variables == variables


@pytest.mark.parametrize(
    ("bad", "flaw"),
    [
        ("", "is empty"),
        ("a\nb", "contains a control character, such as a line end"),
        ("a\rb", "contains a control character, such as a line end"),
        ("a\0b", "contains a control character, such as a line end"),
        ("a\x1b[2J", "contains a control character, such as a line end"),
        ("a\x7f", "contains a control character, such as a line end"),
        ("a\x85b", "contains a control character, such as a line end"),
        ("a\u2028b", "contains a control character, such as a line end"),
        ("a\ud800", "contains a control character, such as a line end"),
        ("x" * (MAX_VALUE_BYTES + 1), "is longer than 8192 bytes"),
        ("é" * (MAX_VALUE_BYTES // 2 + 1), "is longer than 8192 bytes"),
    ],
)
def test_a_value_that_no_variable_should_have_is_refused_by_the_variables_name(bad: str, flaw: str) -> None:
    """Identity reference, section 9.6; the message never has the value."""
    assert flaw_of(bad) == flaw
    for what, principal, token, secrets in (
        ("credential.token", ANNA, bad, {}),
        ("principal.name", Principal("id", bad), TOKEN, {}),
        ("principal.issuer", Principal(bad, "anna"), TOKEN, {}),
        ("secret:db", ANNA, TOKEN, {"db": bad}),
    ):
        with pytest.raises(RenderError) as caught:
            render({"FINE": "x", "THE_ONE": f"${{{what}}}"}, principal, token, secrets)
        assert str(caught.value) == f"THE_ONE: ${{{what}}} {flaw}"
        assert caught.value.variable == "THE_ONE"


def test_a_value_of_the_greatest_length_passes_and_one_that_is_longer_as_a_whole_does_not() -> None:
    """Identity reference, section 9.6: 8 KiB."""
    longest = "x" * MAX_VALUE_BYTES
    assert render({"A": "${credential.token}"}, token=longest).variables == {"A": longest}
    with pytest.raises(RenderError, match=r"^A: is longer than 8192 bytes$"):
        render({"A": "Bearer ${credential.token}"}, token=longest)


def test_a_credential_that_is_needed_and_not_there_is_refused() -> None:
    """Ours: an empty value instead would make the child anonymous, or the operator."""
    with pytest.raises(RenderError, match=r"^A: there is no \$\{credential.token\}$"):
        render({"A": "${credential.token}"}, token=None)


def test_what_variables_are_made_of_is_checked_before_anybody_comes() -> None:
    """Issue 5: all mistakes at once, at the start."""
    template = EnvironmentTemplate.parse(
        {"A": "${secret:databse}", "B": "${secret:cert}", "C": "${credential.token}", "D": "${secret:x9}"}
    )
    with pytest.raises(TemplateError) as caught:
        template.check(has_credentials=False, secrets={"database": "s3cr3t", "cert": "a\nb"})
    assert caught.value.problems == (
        "A: found ${secret:databse}, and there is no secret 'databse'; did you mean ${secret:database}?",
        "B: the secret 'cert' contains a control character, such as a line end",
        "C: found ${credential.token}, expected a source of credentials for the server",
        "D: found ${secret:x9}, and there is no secret 'x9'",
    )
    template.check(has_credentials=True, secrets={"databse": "s3cr3t", "cert": "x", "x9": "x"})


@pytest.mark.parametrize("name", ["../bernd", "..", ".", "a/b", "a\\b", "-rf", "a b", "a;b", "a?b", "a:b"])
def test_a_name_inside_other_text_is_one_word(name: str) -> None:
    """Ours: in /data/${principal.name} a user called ../bernd would get what is bernd's."""
    mallory = Principal("id", name)
    with pytest.raises(RenderError, match=r"^DIRECTORY: \$\{principal\.name\} is not one word"):
        render({"DIRECTORY": "/data/${principal.name}"}, mallory)
    assert render({"NAME": "${principal.name}"}, mallory).variables == {"NAME": name}


@pytest.mark.parametrize("name", ["anna", "anna@example.com", "a.b-c_d+e", "Änne", "42"])
def test_ordinary_names_may_stand_inside_other_text(name: str) -> None:
    """Ours: the rule must not be in the way."""
    rendered = render({"DIRECTORY": "/data/${principal.name}/x"}, Principal("id", name))
    assert rendered.variables == {"DIRECTORY": f"/data/{name}/x"}


@given(subject=any_text, issuer=any_text, token=any_text, secret=any_text)
def test_no_value_can_bring_a_line_end_or_leave_its_place(
    subject: str, issuer: str, token: str, secret: str
) -> None:
    """Threat T16: a property of all values."""
    templates = {
        "A": "<${principal.name}>",
        "B": "<${principal.issuer}>",
        "C": "<${credential.token}>",
        "D": "<${secret:s}>",
    }
    try:
        rendered = render(templates, Principal(issuer, subject), token, {"s": secret})
    except RenderError:
        return
    assert rendered.variables == {
        "A": f"<{subject}>",
        "B": f"<{issuer}>",
        "C": f"<{token}>",
        "D": f"<{secret}>",
    }
    for value in rendered.variables.values():
        assert len(value.splitlines()) == 1
        assert not any(unicodedata.category(character) == "Cc" for character in value)
        assert len(value.encode()) <= MAX_VALUE_BYTES
    assert "/" not in rendered.variables["A"]


@given(template=st.text(alphabet="${}ab:. \\nprincipal.name", max_size=40))
def test_a_template_is_refused_or_rendered_but_never_half_of_each(template: str) -> None:
    """Ours: no text passes for a template that was not understood."""
    try:
        parsed = EnvironmentTemplate.parse({"A": template})
    except TemplateError:
        assert "${" in template
        return
    value = parsed.render(principal=ANNA, token=TOKEN, secrets={}).variables["A"]
    # The other way to the same: by hand, from left to right.
    expected, rest = "", template
    while rest:
        for text, stands_for in (("$$", "$"), ("${principal.name}", "anna"), (rest[0], rest[0])):
            if rest.startswith(text):
                expected, rest = expected + stands_for, rest[len(text) :]
                break
    assert value == expected


@given(text=any_text)
def test_any_text_can_be_written_as_a_constant(text: str) -> None:
    """Ours: `$$` is all there is to escape."""
    if "\0" in text:
        return
    assert render({"A": text.replace("$", "$$")}).variables == {"A": text}
