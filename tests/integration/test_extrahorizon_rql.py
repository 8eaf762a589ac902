"""Run RQL queries on a real PostgreSQL and check which mails each documented operator finds."""

import json
from typing import Any, Final

import psycopg
import pytest

from pipeline.dialects import rql
from pipeline.dialects.extrahorizon_listing import MAIL_FIELDS

MAILS: Final[dict[str, Any]] = {
    "three": {
        "recipients": {"to": ["anna@example.com", "ben@example.com", "cy@example.com"]},
        "reply_to": ["help@example.com"],
        "content": {"list": [5, "six", 7], "items": [{"n": 70, "tags": ["a", "b"]}, {"n": 20}], "grid": [[1, 2], [3]]},
        "views": 3,
    },
    "one": {
        "recipients": {"to": ["dora@example.com"]},
        "content": {"list": [5], "items": [{"n": 95}], "name": "plain", "2024": {"x": 1}},
        "views": 0,
    },
    "no_list": {"recipients": {"cc": ["emil@example.com"]}, "content": {"list": "abc"}, "views": 1},
    "no_content": {"recipients": {"bcc": ["fay@example.com"]}, "views": 1},
}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        # The length of a list, by the index after its last element.
        ("contains(content.list.2)", {"three"}),
        ("excludes(content.list.2)", {"one", "no_list", "no_content"}),
        ("contains(content.list.1)", {"three"}),
        ("contains(content.list.0)", {"three", "one"}),
        ("excludes(content.list.3)", {"three", "one", "no_list", "no_content"}),
        ("excludes(recipients.to.1)", {"one", "no_list", "no_content"}),
        ("contains(recipients.to.2)", {"three"}),
        ("contains(replyTo.0)", {"three"}),
        # Elements of lists by index, and fields whose name is a number.
        ("eq(content.list.0,5)", {"three", "one"}),
        ("eq(content.list.1,six)", {"three"}),
        ("ne(content.list.1,six)", {"one", "no_list", "no_content"}),
        ("gt(content.list.2,6)", {"three"}),
        ("eq(content.items.1.n,20)", {"three"}),
        ("eq(content.items.0.tags.1,b)", {"three"}),
        ("eq(content.grid.0.1,2)", {"three"}),
        ("eq(content.grid.1.1,2)", set()),
        ("eq(recipients.to.1,ben@example.com)", {"three"}),
        ("eq(recipients.to.0,ben@example.com)", set()),
        ("like(recipients.to.0,DORA)", {"one"}),
        ("eq(content.2024.x,1)", {"one"}),
        ("eq(content.name.0,plain)", set()),
        ("contains(content.items,eq(tags.0,a))", {"three"}),
        # Whole lists: one matching element is enough, and a negation requires that none matches.
        ("eq(content.list,5)", {"three", "one"}),
        ("ne(content.list,5)", {"no_list", "no_content"}),
        ("in(content.list,six,seven)", {"three"}),
        ("out(content.list,six,seven)", {"one", "no_list", "no_content"}),
        ("like(content.list,bc)", {"no_list"}),
        # Conditions on one and the same object of a list.
        ("contains(content.items,and(gt(n,60),lt(n,90)))", {"three"}),
        ("contains(content.items,gt(n,60),lt(n,90))", {"three"}),
        ("excludes(content.items,and(gt(n,60),lt(n,90)))", {"one", "no_list", "no_content"}),
        ("contains(content)", {"three", "one", "no_list"}),
        ("excludes(content)", {"no_content"}),
        # Operators of the page among conditions.
        ("and(ge(views,1),select(id),limit(1),sort(-views),skipCount())", {"three", "no_list", "no_content"}),
        ("and(and(ge(views,1),select(id)),le(views,1))", {"no_list", "no_content"}),
        ("or(eq(views,0),and(eq(views,1),excludes(content)))", {"one", "no_content"}),
    ],
)
def test_operator_finds_the_documented_mails(database_url: str, query: str, expected: set[str]) -> None:
    where = rql.parse(query, MAIL_FIELDS).where
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "select name from jsonb_each(%s::jsonb) as mail (name, value) where value @@ %s::jsonpath",
            (json.dumps(MAILS), where),
        ).fetchall()
    assert {name for (name,) in rows} == expected
