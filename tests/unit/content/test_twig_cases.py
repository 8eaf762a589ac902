"""Templates that Jinja and others render differently from Twig and PHP, with Twig's output."""

from typing import Any

import pytest

from pipeline.content.render import compile_text
from pipeline.errors import Refused
from topics.templates import TemplateSyntax


def render(source: str, *, html: bool = True, **values: Any) -> str:
    return compile_text(source, TemplateSyntax.TWIG, html=html).render(values)


@pytest.mark.parametrize(
    ("source", "rendered"),
    [
        # The first line end after a tag or a comment is removed, after a variable it stays.
        ("Hello\n{% if order %}\nYour order {{ order }}\n{% endif %}\nBye\n", "Hello\nYour order 7\nBye\n"),
        ("{# x #}\na\n{# y #}\n\nb", "a\n\nb"),
        ("{{ order }}\n{{ order }}\n", "7\n7\n"),
        ("{% if order %}\r\na\r\n{% endif %}\r\nb", "a\nb"),
        ("a \n {%- if order -%} \n b \n {%- endif -%} \n c", "abc"),
        ("a \n {{- order -}} \n c", "a7c"),
        # All empty values and the text "0" are false.
        ("{% if zero %}You have {{ zero }} points{% else %}none{% endif %}", "none"),
        (
            "{% if '0.0' %}t{% endif %}{% if ' ' %}t{% endif %}{% if 0.0 %}f{% endif %}{% if 'false' %}t{% endif %}",
            "ttt",
        ),
        ("{% if list %}f{% endif %}{% if hash %}f{% endif %}{% if null %}f{% endif %}{% if '' %}f{% endif %}", ""),
        ("{% if not zero %}t{% endif %}{% if zero or hash %}f{% endif %}{% if order and not list %}t{% endif %}", "tt"),
        ("{% if gone %}f{% elseif zero %}f{% else %}t{% endif %}", "t"),
        ("{{ order or zero }}{{ zero and order }}{{ not zero }}{{ not order }}", "11"),
        ("{{ zero|default('x') }}{{ list|default('y') }}{{ false|default('z') }}", "0yz"),
        # Comparisons are PHP's.
        ("{% if zero == 0 %}a{% endif %}{% if order == '7.0' %}b{% endif %}{% if '1e1' == '10' %}c{% endif %}", "abc"),
        ("{% if 'x' == 0 %}f{% endif %}{% if null == '' %}a{% endif %}{% if null == list %}b{% endif %}", "ab"),
        ("{% if 'abc' < 'abd' %}a{% endif %}{% if '10' > '9' %}b{% endif %}{% if 'x' > 5 %}c{% endif %}", "abc"),
        ("{% if true == 'x' %}a{% endif %}{% if hash == list %}b{% endif %}{% if two == two %}c{% endif %}", "abc"),
        ("{% if two != list %}a{% endif %}{% if order >= 7 %}b{% endif %}{% if order <= 7 %}c{% endif %}", "abc"),
        ("{% if '7' in two %}a{% endif %}{% if 9 not in two %}b{% endif %}{% if 'b' in 'abc' %}c{% endif %}", "abc"),
        ("{% if 'v' in map %}a{% endif %}{% if 'k' in map %}f{% endif %}{% if 1 < 2 < 3 %}f{% endif %}", "a"),
        # Numbers are printed like in PHP.
        ("{{ 10.0 }} {{ 0.5 }} {{ -0.25 }} {{ 19.99 }} {{ 0.1 }}", "10 0.5 -0.25 19.99 0.1"),
        ("{{ big }} {{ huge }} {{ small }} {{ tiny }}", "1.0E+25 1.5E+300 0.0001 1.0E-5"),
        ("{{ third }} {{ sum }} {{ million }} {{ fourteen }}", "0.33333333333333 0.3 1000000 1.0E+14"),
        ("{{ inf }} {{ ninf }} {{ nan }} {{ negative }}", "INF -INF NAN -0"),
        ("{{ true }}{{ false }}{{ null }}", "1"),
        # Escaping for attributes, scripts, style sheets and URLs.
        ("{{ text|e('html_attr') }}", "&lt;a&#x20;href&#x3D;&#x27;x&#x27;&gt;&amp;&#x00E9;&#x1F600;&quot;"),
        ("{{ text|escape('js') }}", r"\u003Ca\u0020href\u003D\u0027x\u0027\u003E\u0026\u00E9\uD83D\uDE00\u0022"),
        ("{{ text|e('css') }}", r"\3C a\20 href\3D \27 x\27 \3E \26 \E9 \1F600 \22 "),
        ("{{ text|e('url') }}", "%3Ca%20href%3D%27x%27%3E%26%C3%A9%F0%9F%98%80%22"),
        (
            "{{ lines|e('js') }} {{ lines|e('html_attr') }}",
            r"\/\n\r\t\b\f\\" + " &#x2F;&#x0A;&#x0D;&#x09;&#xFFFD;&#xFFFD;&#x5C;",
        ),
    ],
)
def test_subset_renders_like_twig(source: str, rendered: str) -> None:
    values: dict[str, Any] = {
        **{"order": 7, "zero": "0", "list": [], "hash": {}, "two": [7, "8"], "map": {"k": "v"}},
        **{"big": 1e25, "huge": 1.5e300, "small": 0.0001, "tiny": 0.00001, "third": 1 / 3, "sum": 0.1 + 0.2},
        **{"million": 1e6, "fourteen": 1e14, "inf": float("inf"), "ninf": float("-inf"), "nan": float("nan")},
        **{"negative": -0.0, "text": "<a href='x'>&é😀\"", "lines": "/\n\r\t\b\f\\"},
    }
    assert render(source, **values) == rendered


def test_numbers_in_twig_are_printed_like_php() -> None:
    assert render("{{ price }}", price=10.0) == "10"


def test_numbers_in_extra_horizon_syntax_are_printed_like_javascript() -> None:
    text = compile_text("$content.a $content.b $content.c $content.d", TemplateSyntax.EXTRAHORIZON, html=False)
    assert text.render({"a": 1e-7, "b": 0.00001, "c": 1e21, "d": -0.0}) == "1e-7 0.00001 1e+21 0"


def test_output_limit_counts_bytes_during_rendering() -> None:
    for source, syntax in (("{{ a }}" * 100, TemplateSyntax.TWIG), ("$content.a" * 100, TemplateSyntax.EXTRAHORIZON)):
        text = compile_text(source, syntax, html=True)
        assert len(text.render({"a": "é" * 10}, max_output_bytes=2_000)) == 1_000
        with pytest.raises(Refused, match="more than 1999 bytes"):
            text.render({"a": "é" * 10}, max_output_bytes=1_999)
    with pytest.raises(Refused, match="more than 3 bytes"):
        compile_text("four", TemplateSyntax.TWIG, html=True).render({}, max_output_bytes=3)
