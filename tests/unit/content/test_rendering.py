"""Tests of texts with variables: rendering, refusals, limits and the sandbox."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import escape

from pipeline.content import twig
from pipeline.content.php_date import format_php, parse_datetime
from pipeline.content.render import compile_text
from pipeline.errors import Refused
from topics.templates import TemplateSyntax

NOW = 1_700_000_000_000
TWIG, FRESHMAIL, EXTRAHORIZON = TemplateSyntax.TWIG, TemplateSyntax.FRESHMAIL, TemplateSyntax.EXTRAHORIZON


def render(source: str, syntax: TemplateSyntax = TWIG, html: bool = True, **values: Any) -> str:
    return compile_text(source, syntax, html=html).render(values, now=NOW)


def refusal(source: str, syntax: TemplateSyntax = TWIG, **values: Any) -> str:
    with pytest.raises(Refused) as caught:
        render(source, syntax, **values)
    return str(caught.value)


@pytest.mark.parametrize(
    ("source", "rendered"),
    [
        ("Hello {{ name }}", "Hello &lt;Anna&gt;"),
        ("{{ user.name }} {{ user['name'] }} {{ items[1] }}", "A &amp; B A &amp; B y"),
        ("{{ name|raw }}", "<Anna>"),
        ("{{ name|upper }} {{ name|lower }}", "&lt;ANNA&gt; &lt;anna&gt;"),
        ("{{ name|escape }} {{ name|e('html') }}", "&lt;Anna&gt; &lt;Anna&gt;"),
        ("{{ none|default('x') }} {{ empty|default('y') }} {{ zero|default('z') }} {{ a.b.c|default }}", "x y 0 "),
        ("{% if vip %}V{% elseif zero == 0 %}Z{% else %}E{% endif %}", "Z"),
        ("{% if gone %}G{% else %}no{% endif %}{% if not gone and zero < 1 %}!{% endif %}", "no!"),
        ("{% if name is defined and gone is not defined %}d{% endif %}{% if empty is empty %}e{% endif %}", "de"),
        ("{% if vip == null %}n{% endif %}{% if 'y' in items %}i{% endif %}", "ni"),
        ("{{ day|date('d.m.Y') }} {{ 0|date('Y') }} {{ 'now'|date('Y-m-d') }}", "29.02.2024 1970 2023-11-14"),
        ("{{ true }}{{ false }}{{ none }}{{ 1.5 }}", "11.5"),
        ("{# nothing #}a\n", "a\n"),
        ("no marks at all: $$name$$ $content.name", "no marks at all: $$name$$ $content.name"),
    ],
)
def test_twig_subset_renders_like_twig(source: str, rendered: str) -> None:
    values: dict[str, Any] = {
        "name": "<Anna>",
        "user": {"name": "A & B"},
        "items": ["x", "y"],
        "empty": "",
        "zero": 0,
        "vip": None,
        "day": "2024-02-29T23:30:00+01:00",
    }
    assert render(source, **values) == rendered


def test_text_part_is_not_escaped_and_marks_in_values_are_not_rendered() -> None:
    assert render("{{ a }}", html=False, a="<&> {{ b }}") == "<&> {{ b }}"
    assert render("$$a$$ {{ b }}", FRESHMAIL, a="{{ b }}", b="$$a$$ <") == "{{ b }} $$a$$ &lt;"
    assert render("$content.a", EXTRAHORIZON, a="$content.b") == "$content.b"


def test_freshmail_marks_work_beside_twig_and_need_not_be_identifiers() -> None:
    named: dict[str, Any] = {"vip": True, "first-name": "Adam", "custom_key": 7}
    source = "{% if vip %}$$first-name$${% endif %}, $$custom_key$$"
    assert render(source, FRESHMAIL, **named) == "Adam, 7"


def test_extra_horizon_marks_end_where_a_name_ends() -> None:
    values: dict[str, Any] = {"name": "Anna", "a": {"b_1": [1], "n": 3.0, "yes": True, "none": None}}
    rendered = render(
        "$content.name. $content.name/open $content.a.n $content.a.yes [$content.a.none] $content $contents.x",
        EXTRAHORIZON,
        **values,
    )
    assert rendered == "Anna. Anna/open 3 true [] $content $contents.x"
    assert refusal("\n\n$content.a.z", EXTRAHORIZON, **values) == "line 3: there is no variable a.z"
    assert "an object or a list" in refusal("$content.a", EXTRAHORIZON, **values)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("a\n{% for x in items %}{% endfor %}", "line 2: for is not available here"),
        ("{% set x = 1 %}", "line 1: assign"),
        ("{% include 'x' %}", "include"),
        ("{% import 'x' as y %}", "import"),
        ("{% extends 'x' %}", "extends"),
        ("{% macro x() %}{% endmacro %}", "macro"),
        ("{% block x %}{% endblock %}", "block"),
        ("{% filter upper %}x{% endfilter %}", "filterblock"),
        ("{{ x() }}", "call"),
        ("{{ range(9) }}", "call"),
        ("{{ 'a' * 1000000000 }}", "mul"),
        ("{{ 9 ** 9 ** 9 }}", "pow"),
        ("{{ a ~ a }}", "concat"),
        ("{{ a + a }}", "add"),
        ("{{ a[b] }}", "what stands in []"),
        ("{{ a[0:9] }}", "what stands in []"),
        ("{{ _now }}", "names begin with a letter"),
        ("{{ a|attr('b') }}", "no filter attr"),
        ("{{ a|map('upper') }}", "no filter map"),
        ("{{ a is callable }}", "no test callable"),
        ("{{ a|escape('xml') }}", "only html, html_attr, js, css, url"),
        ("{{ a|date(x=1) }}", "keyword"),
        ("{{ a", "line 1: unexpected end"),
        ("{% if a %}", "line 1: unexpected end"),
        ("{% foreach a %}", "line 1: encountered unknown tag 'foreach'"),
        ("{{ " + "(" * 3000 + "a" + ")" * 3000 + " }}", "too complicated"),
        ("{{ " + "not " * 60 + "a }}", "too complicated"),
        ("{% if a %}" * 60 + "{% endif %}" * 60, "too complicated"),
        ("{{ a }}" * 6000, "too complicated"),
        ("{{ " + "9" * 5000 + " }}", "too complicated"),
    ],
)
def test_forbidden_syntax_is_refused_with_its_line(source: str, words: str) -> None:
    assert words in refusal(source, a="x", items=[1])


@pytest.mark.parametrize(
    "source",
    [
        "{{ a.__class__ }}",
        "{{ a.__class__.__mro__[1].__subclasses__ }}",
        "{{ ''.__class__ }}",
        "{{ a.upper }}",
        "{{ items.append }}",
        "{{ user.keys }}",
        "{{ self.__init__ }}",
        "{{ _['__class__'] }}",
        "{{ cycler }}{{ lipsum }}{{ namespace }}",
    ],
)
def test_attributes_of_python_objects_are_not_read(source: str) -> None:
    assert "there is no variable" in refusal(source, a="x", items=[], user={})


def test_error_names_line_and_variable() -> None:
    assert refusal("a\n\n{{ user.first.name }}", user={}) == "line 3: there is no variable user.first.name"
    assert refusal("a\n{{ user }}", user={}) == "line 2: an object or a list can't be shown; name one of its members"
    assert refusal("\n{{ day|date }}", day="soon") == "line 2: not a date: 'soon'"
    assert refusal("{% if gone < 1 %}{% endif %}") == "line 1: there is no variable gone"


def test_size_and_work_are_limited() -> None:
    assert "says more than" in refusal("{{ a }}" * 100, a="x" * 100_000)
    assert "comparisons touch more than" in refusal("{{ a" + "|upper" * 30 + " }}", a="x" * 1_000_000)
    assert "says more than" in refusal("$content.a" * 100, EXTRAHORIZON, a="x" * 100_000)
    assert "characters" in refusal("x" * (twig.SOURCE_MAX_CHARS + 1))


texts = st.text(max_size=30)


@given(texts, st.dictionaries(texts, texts, max_size=3))
def test_any_value_is_escaped(name: str, more: dict[str, str]) -> None:
    values = more | {"name": name}
    for source, syntax in (("[{{ name }}]", TWIG), ("[$$name$$]", FRESHMAIL), ("[$content.name]", EXTRAHORIZON)):
        assert compile_text(source, syntax, html=True).render(values) == f"[{escape(name)}]"


@settings(max_examples=300)
@given(
    st.lists(
        st.sampled_from(
            [
                "{{",
                "}}",
                "{%",
                "%}",
                "{#",
                "#}",
                "if",
                "endif",
                "else",
                " ",
                "a",
                ".",
                "|",
                "upper",
                "'",
                '"',
                "(",
                ")",
                "[",
                "0",
                "]",
                "$$",
                "$content",
                "\n",
                "-",
                "\\",
                "é",
            ]
        ),
        max_size=12,
    )
)
def test_any_text_is_rendered_or_refused(pieces: list[str]) -> None:
    source = "".join(pieces)
    for syntax in TemplateSyntax:
        try:
            rendered = compile_text(source, syntax, html=True).render({"a": {"a": "x"}}, now=NOW)
        except Refused:
            continue
        assert isinstance(rendered, str)


@pytest.mark.parametrize(
    ("form", "rendered"),
    [
        ("d D j l N S w z", "05 Fri 5 Friday 5 th 5 35"),
        ("W F m M n t L o Y y", "05 February 02 Feb 2 29 1 2021 2021 21".replace("29 1 2021", "28 0 2021")),
        ("a A g G h H i s u v", "pm PM 3 15 03 15 04 05 678901 678"),
        ("e I O P p T Z U", "UTC 0 +0000 +00:00 Z UTC 0 1612537445"),
        ("c", "2021-02-05T15:04:05+00:00"),
        ("r", "Fri, 05 Feb 2021 15:04:05 +0000"),
        (r"\Y\\ jS \o\f F q", r"Y\ 5th of February q"),
        ("B", "669"),
    ],
)
def test_dates_are_formatted_like_php(form: str, rendered: str) -> None:
    assert format_php(parse_datetime("2021-02-05T15:04:05.678901", NOW), form) == rendered


def test_day_suffixes_and_zone_offsets_are_formatted() -> None:
    rendered = [
        format_php(parse_datetime(f"2021-01-{day:02}", NOW), "jS") for day in (1, 2, 3, 4, 11, 12, 13, 21, 22, 23, 31)
    ]
    assert rendered == ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "23rd", "31st"]
    warsaw = parse_datetime("2021-07-01 12:00:00", NOW, "Europe/Warsaw")
    assert format_php(warsaw, "H:i P T I Z e") == "14:00 +02:00 CEST 1 7200 Europe/Warsaw"
    for zone in ("Mars/Base", "../../etc/passwd", ""):
        with pytest.raises(Refused, match="not a time zone"):
            parse_datetime(0, NOW, zone)
    unlike: tuple[Any, ...] = ("x", "", True, None, 10**20, float("inf"), float("nan"), [])
    for wrong in unlike:
        with pytest.raises(Refused, match="not a date"):
            parse_datetime(wrong, NOW)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("[$$name$$]", "[]"),
        ("[{{ name }}]", "[]"),
        ("[{{ name|default('friend') }}]", "[friend]"),
        ("[{{ user.name.first|default('friend') }}]", "[friend]"),
        ("[{{ user.name|upper }}{{ name|e }}{{ name|raw }}]", "[]"),
        ("{{ name|date('Y') }}", "1970"),
        ("{% if name %}a{% elseif name == null and name is not defined and name is empty %}b{% endif %}", "b"),
        ("{% if name > 5 %}>{% endif %}{% if name < 5 %}<{% endif %}{% if name >= 0 %}={% endif %}", "<="),
        ("{% if name == '' %}empty{% endif %}{% if name != 'Bo' %}, not Bo{% endif %}", "empty, not Bo"),
    ],
)
def test_missing_values_are_empty_in_freshmail_syntax(source: str, expected: str) -> None:
    for html in (True, False):
        assert compile_text(source, FRESHMAIL, html=html).render({}) == expected
        assert (
            compile_text(source.replace("$$name$$", "{{ name }}"), TWIG, html=html, lenient=True).render({}) == expected
        )


CSS = "<style>@media print{#id{color:red}}@media all{#a{b:c}#d{e:f}}</style>"


@pytest.mark.parametrize("mark", ["", "$$name$$", "{{ name }}", "{% if name %}{{ name }}{% endif %}"])
def test_minified_css_is_no_comment_in_freshmail_syntax(mark: str) -> None:
    name = "Bo" if mark else ""
    assert render(CSS + mark, FRESHMAIL, name="Bo") == CSS + name
    assert render(CSS + mark + "{# a\n comment #}.", FRESHMAIL, name="Bo") == CSS + name + "."
    assert render("{# { #}" + CSS + mark + "{##}", FRESHMAIL, name="Bo") == CSS + name
    assert render("a {#- trimmed -#} b" + mark, FRESHMAIL, name="Bo") == "ab" + name


def test_line_numbers_are_right_after_comments_and_css() -> None:
    with pytest.raises(Refused, match="line 4: "):
        compile_text("{# a\nb #}@media all{#a{b:c}}\n\n{{ x y }}", FRESHMAIL, html=True)
