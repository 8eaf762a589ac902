"""Run `mailfold trace`, `status` and `rebuild` as a person does."""

import json

from pipeline.settings import Settings
from tests.support.changes import identified, lives
from tests.support.command import mailfold_on
from tests.support.projecting import caught_up, projecting, publish
from tests.support.seeing import until


async def mailfold(settings: Settings, *arguments: str) -> tuple[int, str, str]:
    result = await mailfold_on(settings, *arguments, COLUMNS="160")
    return result.code, result.out, result.err


async def test_trace_status_and_rebuild_print_and_exit_as_documented(settings: Settings) -> None:
    async with projecting(settings) as rt:
        await publish(rt, lives(31, 30).changes)
        await until(lambda: caught_up(rt))

        code, out, err = await mailfold(settings, "trace", identified(4))
        assert code == 0, err
        assert f"email {identified(4)} is " in out
        assert "accepted" in out

        code, out, err = await mailfold(settings, "trace", "player4@example.com", "--json")
        assert code == 0, err
        assert json.loads(out)["traces"][0]["email_id"] == identified(4)

        code, out, err = await mailfold(settings, "trace", "nobody@example.com")
        assert (code, out) == (1, "")
        assert err.strip().splitlines()[-1].startswith("mailfold: nothing is known as nobody@example.com")

        code, out, err = await mailfold(settings, "status", "--json")
        assert code == 0, err
        lags = {(lag["role"], lag["topic"]): lag["behind"] for lag in json.loads(out)["lags"]}
        assert lags["project", "email-changes"] == 0

        code, out, err = await mailfold(settings, "status")
        assert code == 0, err
        assert "oldest owed conversion" in out

        code, out, err = await mailfold(settings, "rebuild")
        assert code == 0, err
        assert "every row the same" in out

        async with rt.pool.connection() as connection:
            await connection.execute("delete from projections.timeline where kind = 'accepted'")
        code, out, err = await mailfold(settings, "rebuild", "--check")
        assert code == 1
        assert "timeline: 0 only in the live table, 30 only in the rebuilt one" in out
        assert "nothing was swapped" in err
