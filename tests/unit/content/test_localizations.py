"""Tests of localizations: parsing, fallback of languages, and rendering of templates that name them."""

import json
from typing import Any

import pytest

from pipeline.content import localizations
from pipeline.content import templates as content
from pipeline.content.localizations import Localizer
from pipeline.content.placeholders import PlaceholderText
from pipeline.content.render import compile_text
from pipeline.errors import MissingLocalization, Refused
from topics.codec import decode, encode
from topics.registry import TEMPLATES
from topics.templates import LOCALIZATIONS_NAME, Template, TemplateSyntax, TemplateTexts

LANGUAGES = {
    "EN": {
        "greeting": "Dear $1,",
        "closing": "Kind regards",
        "rate": "On $1 at $2, your heart rate was $3 bpm.",
        "price": "$$10, <b>$1</b>",
    },
    "NL": {"greeting": "Beste $1,", "rate": "Uw hartslag was $3 spm op $1 om $2."},
    "nl_be": {"greeting": "Dag $1,"},
}


def localized(wanted: str = "", languages: Any = LANGUAGES) -> Localizer:
    return Localizer(localizations.make_draft("acme", languages), wanted)


def render(source: str, wanted: str = "", *, html: bool = False, **values: Any) -> str:
    return PlaceholderText(source, html=html).render(values, localize=localized(wanted))


def refusal(languages: Any, default: str = "en") -> str:
    with pytest.raises(Refused) as caught:
        localizations.make_draft("acme", languages, default)
    return f"{caught.value.where}: {caught.value}"


@pytest.mark.parametrize(
    ("wanted", "greeting", "closing"),
    [
        ("EN", "Dear Anna,", "Kind regards"),
        ("nl", "Beste Anna,", "Kind regards"),
        ("NL_be", "Dag Anna,", "Kind regards"),
        ("nl-be", "Dag Anna,", "Kind regards"),
        ("nl-NL", "Beste Anna,", "Kind regards"),
        ("fr", "Dear Anna,", "Kind regards"),
        ("", "Dear Anna,", "Kind regards"),
    ],
)
def test_each_missing_key_falls_back_to_the_default_language(wanted: str, greeting: str, closing: str) -> None:
    assert render("{{greeting,$content.name}} {{closing}}", wanted, name="Anna") == f"{greeting} {closing}"


def test_arguments_replace_their_numbers_in_the_text() -> None:
    source = "{{rate,$content.date,$content.time,$content.rate}}"
    values: dict[str, Any] = {"date": "06/10/2021", "time": "21:00", "rate": 63}
    assert render(source, "EN", **values) == "On 06/10/2021 at 21:00, your heart rate was 63 bpm."
    assert render(source, "NL", **values) == "Uw hartslag was 63 spm op 06/10/2021 om 21:00."
    assert render("{{ greeting , Mr $content.name jr. }}", name="X") == "Dear Mr X jr.,"


def test_values_are_escaped_in_html_and_localizations_are_not() -> None:
    assert render("{{price,$content.a}}", html=True, a="<&>") == "$10, <b>&lt;&amp;&gt;</b>"
    assert render("{{price,$content.a}}", a="<&>") == "$10, <b><&></b>"


def test_marks_in_values_are_not_rendered() -> None:
    assert render("{{greeting,$content.a}}", a="{{closing}} $1 $content.a") == "Dear {{closing}} $1 $content.a,"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("\n{{nothing}}", "line 2: there is no localization nothing"),
        ("{{greeting}}", "line 1: greeting has $1, and 0 arguments are given"),
        ("{{rate,a,b}}", "rate has $3, and 2 arguments are given"),
        ("{{greeting,$content.missing}}", "line 1: there is no variable missing"),
    ],
)
def test_missing_localizations_and_values_are_refused(source: str, words: str) -> None:
    with pytest.raises(Refused) as caught:
        render(source)
    assert words in str(caught.value)
    assert isinstance(caught.value, MissingLocalization) is ("localization" in words)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("a\n{{", "line 2: {{ that opens no localization's key"),
        ("{{greeting", "opens no localization"),
        ("{{{greeting}}}", "opens no localization"),
        ("{{greeting}}}", "opens no localization"),
        ("{{}}", "names no localization"),
        ("{{t 'greeting'}}", "names no localization"),
        ("{{@inputs.name}}", "names no localization"),
        ("{{#if @inputs.a}}", "names no localization"),
        ("{{" + "a" * 201 + "}}", "names no localization"),
        ("{{a" + ",b" * 21 + "}}", "more than 20 arguments"),
        ("x #if($content.a) y #end", "no directive #if"),
        ("#foreach ($a in $content.b)", "no directive #foreach"),
        ("#set( $a = 1 )", "no directive #set"),
        ("{{greeting,#if(a)}}", "no directive #if"),
    ],
)
def test_invalid_marks_are_refused(source: str, words: str) -> None:
    with pytest.raises(Refused) as caught:
        compile_text(source, TemplateSyntax.EXTRAHORIZON, html=True)
    assert words in str(caught.value)


def test_css_and_links_contain_no_marks() -> None:
    source = '<style>@media print{#end{color:#ff0}}</style><a href="#if">}} { { #else #end</a>'
    assert render(source, html=True) == source


def test_all_spellings_of_velocity_references_are_values() -> None:
    assert render("${content.a}b $!content.b|$!{content.a} $content.a.", a="x") == "xb |x x."


def test_variables_in_arguments_are_checked_against_the_schema() -> None:
    texts = {"en": TemplateTexts(subject="s", html="{{greeting,$content.name}}")}
    schema = json.dumps({"properties": {"first_name": {}}}).encode()
    with pytest.raises(Refused) as caught:
        content.make_draft("acme", "welcome", texts, syntax=TemplateSyntax.EXTRAHORIZON, schema=schema)
    assert "line 1: name is not among the schema's properties" in str(caught.value)


@pytest.mark.parametrize(
    ("languages", "words"),
    [
        ({}, "languages: 1 to 50"),
        ({"en": {}, "EN": {}}, "languages: 1 to 50"),
        ({"nl": {"a": "b"}}, "default: there are no texts in en"),
        ({"en": {"a": "b"}, "nl": {"c": "d"}}, "nl.c: not in the default language"),
        ({"en": {"a b": "c"}}, "en.a b: a key"),
        ({"en": {}, "english!": {}}, "english!: a language"),
        ({"en": {"a": "Hi {{name}}"}}, "en.a: values are filled in as $1"),
        ({"en": {"a": "Hi $content.name"}}, "en.a: values are filled in as $1"),
        ({"en": {"a": "x" * 600_000}}, "languages: 600"),
    ],
)
def test_invalid_set_is_refused_with_the_place(languages: Any, words: str) -> None:
    assert refusal(languages).startswith(words)


def test_files_for_the_extra_horizon_cli_make_a_set() -> None:
    files = {"EN.json": '{"greeting": "Dear $1"}', "NL.json": '{"greeting": "Beste $1"}', "README.md": "no texts"}
    template = localizations.draft_from_files("acme", files)
    assert localizations.localization_set_view(template).languages == {
        "en": {"greeting": "Dear $1"},
        "nl": {"greeting": "Beste $1"},
    }
    with pytest.raises(Refused) as caught:
        localizations.draft_from_files("acme", files | {"NL.json": '{"greeting": 1}'})
    assert caught.value.where == "NL.json"


def test_order_of_languages_and_keys_does_not_change_the_hash() -> None:
    first = localizations.make_draft("acme", {"en": {"a": "1", "b": "2"}, "nl": {"a": "3"}})
    other = localizations.make_draft("acme", {"nl": {"a": "3"}, "en": {"b": "2", "a": "1"}})
    assert first.hash == other.hash
    assert first.hash != localizations.make_draft("acme", {"en": {"a": "1", "b": "2"}}).hash


def test_set_is_stored_as_a_template() -> None:
    template = localizations.make_draft("acme", LANGUAGES)
    assert decode(TEMPLATES, encode(TEMPLATES, template)) == template
    assert type(template) is Template
    with pytest.raises(Refused):
        content.make_draft("acme", LOCALIZATIONS_NAME, {"en": TemplateTexts(text="x")})


def test_template_of_another_syntax_has_no_localizations() -> None:
    twig = content.make_draft("acme", "a", {"en": TemplateTexts(text="{{ greeting }}")})
    own = content.make_draft(
        "acme", "b", {"en": TemplateTexts(text="{{greeting}}")}, syntax=TemplateSyntax.EXTRAHORIZON
    )
    assert (content.is_localized(twig), content.is_localized(own)) == (False, True)
    with pytest.raises(MissingLocalization) as caught:
        content.render_template(own, "en", {}, now=0)
    assert caught.value.where == "texts.en.text"


def test_empty_pieces_are_limited() -> None:
    many = localized("", {"en": {"a": "$1" * 100_000}})
    source = PlaceholderText("{{a,}}" * 40_000, html=False)
    with pytest.raises(Refused, match="it says more than"):
        source.render({}, localize=many)
