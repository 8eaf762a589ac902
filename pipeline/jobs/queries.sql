-- Statements that change many rows find and lock them first, by index, and then go to them by their place in the table
-- (ctid). A join by key would be the planner's to choose, and without fresh statistics (a table that just filled) it
-- reads the whole table for each row: seconds instead of a millisecond, measured. A row that changed between the
-- statement's snapshot and its lock is missed once; who needs to know asks again (Store.settle).

-- name: claim
-- Leases the heads of due streams, fairly over the tenants first and over each tenant's lanes (tenant/brand) then. Who has
-- less in hand comes first, so one tenant's thousand lanes weigh as much as another's single one.
--   lanes    each lane with open jobs and when its first is due: a loose index scan, so that the cost follows the lanes,
--            not the backlog
--   probes   lanes whose breaker's pause is over: of all workers one gets the row, and one job
--   due      lanes that may get jobs now
--   sizes    how many lanes of its tenant are due, and how many tenants
--   rooms    how many jobs a lane may get: its own limit, and at most half of what the other lanes leave of this process,
--            so that no number of stuck lanes can take the last place; but its equal share where there are other tenants.
--            A tenant beside others gets at most three quarters of what those leave of this process
--   picked   the lanes whose jobs are looked at: each tenant's first, then each tenant's second …, twice as many as there
--            are free places, and about twice as many jobs, so that the locks follow the places, not the lanes; what this
--            leaves free where lanes are uneven, the next claim takes, milliseconds later
--   heads    due, and nothing earlier of the same email is open; a lease that ran out is due again (due_at)
--   turns    when each head's tenant comes to it: each lane's first, then each lane's second …
-- Windows, not joins, between the lanes: without statistics the planner would compare each lane with each.
with recursive lanes as (
    (
        select lane, due_at from jobs.jobs
        where queue = %(queue)s and state in ('pending', 'attempting')
        order by lane, due_at limit 1
    )
    union all
    select later.lane, later.due_at
    from lanes cross join lateral (
        select j.lane, j.due_at from jobs.jobs j
        where j.queue = %(queue)s and j.state in ('pending', 'attempting') and j.lane > lanes.lane
        order by j.lane, j.due_at limit 1
    ) later
), busy as (
    select lane, jobs, split_part(lane, '/', 1) as tenant
    from unnest(%(lanes)s::text[], %(in_hand)s::integer[]) as busy (lane, jobs)
), held as (
    select tenant, sum(jobs)::integer as jobs from busy group by tenant
), probes as (
    select lane from jobs.lanes
    where queue = %(queue)s and trips > 0 and paused_at is null and open_until <= now()
        and (probing_until is null or probing_until <= now())
    for update skip locked
), due as (
    select lanes.lane, split_part(lanes.lane, '/', 1) as tenant, coalesce(busy.jobs, 0) as in_hand,
        probes.lane is not null as probe, coalesce(news.trips, 0) > 0 as tripped
    from lanes
    left join busy on busy.lane = lanes.lane
    left join probes on probes.lane = lanes.lane
    left join jobs.lanes news on news.queue = %(queue)s and news.lane = lanes.lane
    where lanes.due_at <= now() and news.paused_at is null and (news.open_until is null or news.open_until <= now())
), sizes as (
    select *, max(nth_tenant) over () as tenants
    from (
        select due.*, count(*) over (partition by tenant) as lanes, dense_rank() over (order by tenant) as nth_tenant
        from due
    ) due
), rooms as (
    select sizes.lane, sizes.tenant, sizes.probe, sizes.in_hand, sizes.tenants, coalesce(held.jobs, 0) as tenant_in_hand,
        case
            when tripped then probe::integer
            else least(
                %(lane_limit)s,
                greatest(
                    (%(limit)s - %(total)s + in_hand + 1) / 2,
                    case when tenants > 1 then %(limit)s / tenants / lanes else 0 end
                )
            ) - in_hand
        end as jobs,
        case
            when (select count(*) > 1 from (select from admin.tenants limit 2) first_two)
            then ((%(limit)s - %(total)s + coalesce(held.jobs, 0)) * 3 + 3) / 4 - coalesce(held.jobs, 0)
            else %(limit)s - %(total)s
        end as tenant_jobs
    from sizes left join held on held.tenant = sizes.tenant
), picked as (
    select *, count(*) over (partition by tenant) as lanes,
        least(tenant_jobs, 1 + 2 * (%(limit)s - %(total)s) / tenants) as looked_at
    from (
        select *, tenant_in_hand + row_number() over (partition by tenant order by in_hand, random()) as turn
        from rooms
        where jobs > 0 and tenant_jobs > 0
    ) ranked
    order by turn, random() limit 2 * (%(limit)s - %(total)s)
), heads as (
    select picked.lane, picked.tenant, picked.probe, picked.tenant_in_hand, picked.tenant_jobs, head.tid, head.state,
        picked.in_hand + row_number() over (partition by picked.lane order by head.due_at) as place
    from picked cross join lateral (
        select j.ctid as tid, j.state, j.due_at
        from jobs.jobs j
        where j.queue = %(queue)s and j.lane = picked.lane and j.state in ('pending', 'attempting') and j.due_at <= now()
            and not exists (
                select from jobs.jobs o
                where o.queue = j.queue and o.stream = j.stream and o.seq <> j.seq
                    and (o.state = 'attempting' or (o.seq < j.seq and o.state in ('held', 'pending', 'unknown')))
            )
        order by j.due_at
        limit least(picked.jobs, 1 + 2 * picked.looked_at / picked.lanes)
        for update skip locked
    ) head
), turns as (
    select lane, probe, tid, state, tenant_in_hand, tenant_jobs,
        row_number() over (partition by tenant order by place, random()) as turn
    from heads
), chosen as (
    select * from turns where turn <= tenant_jobs
    order by tenant_in_hand + turn, random() limit %(limit)s - %(total)s
), probing as (
    update jobs.lanes set probing_until = now() + %(lease)s * interval '1 second'
    where queue = %(queue)s and lane in (select lane from chosen where probe)
)
update jobs.jobs j set
    state = 'attempting',
    attempts = j.attempts + 1,
    lease_token = %(token)s,
    due_at = now() + %(lease)s * interval '1 second'
from chosen
where j.ctid = chosen.tid
returning
    j.queue, j.stream::text, j.seq, j.name, j.lane, j.attempts, j.attempts - j.replayed_after,
    chosen.state = 'attempting', j.lease_token::text, j.payload, j.route

-- name: park
-- What waits behind a job that isn't due yet (or waits for a person) is not due either: it leaves the front of the
-- index, so that a long retry with many followers costs the claim nothing. The lock on the head makes it wait for
-- (or see) a settlement, whose wake-up would otherwise be overwritten. Only each lane's front is looked at.
with recursive lanes as (
    (select lane from jobs.jobs where queue = %(queue)s and state = 'pending' and seq > 1 order by lane limit 1)
    union all
    select (
        select j.lane from jobs.jobs j
        where j.queue = %(queue)s and j.state = 'pending' and j.seq > 1 and j.lane > lanes.lane
        order by j.lane limit 1
    )
    from lanes where lanes.lane is not null
), front as (
    select j.*
    from lanes cross join lateral (
        select j.ctid as tid, j.queue, j.stream, j.seq from jobs.jobs j
        where j.queue = %(queue)s and j.lane = lanes.lane and j.state = 'pending' and j.seq > 1 and j.due_at <= now()
        order by j.due_at limit 1000
        for update skip locked
    ) j
), blocked as (
    select front.*, head.due_at, head.state
    from front cross join lateral (
        select o.due_at, o.state
        from jobs.jobs o
        where o.queue = front.queue and o.stream = front.stream and o.seq < front.seq
            and ((o.state = 'pending' and o.due_at > now()) or o.state = 'unknown')
        order by o.seq
        limit 1
        for share skip locked
    ) head
)
update jobs.jobs j set due_at = case blocked.state when 'unknown' then 'infinity' else blocked.due_at end
from blocked
where j.ctid = blocked.tid

-- name: settle
-- Only with the lease's token. What the intake marked meanwhile (it read the ack that we had appended) stays as it
-- marked it. Followers wake when their head is done or dead, and wait with it otherwise.
-- Rows are locked in one order, here and in the intake, so that no two ever wait for each other.
with verdicts as materialized (
    select j.tid, v.state, v.delay, v.burnt, v.error
    from (
        select * from unnest(
            %(streams)s::uuid[], %(seqs)s::integer[], %(tokens)s::uuid[],
            %(states)s::text[], %(delays)s::float8[], %(burnt)s::boolean[], %(errors)s::text[]
        ) as v (stream, seq, token, state, delay, burnt, error) order by stream, seq
    ) v cross join lateral (
        select j.ctid as tid from jobs.jobs j
        where j.queue = %(queue)s and j.stream = v.stream and j.seq = v.seq and j.lease_token = v.token
            and j.state in ('attempting', 'done', 'dead')
        limit 1 for update
    ) j
), settled as (
    update jobs.jobs j set
        state = case j.state when 'attempting' then v.state else j.state end,
        due_at = now() + v.delay * interval '1 second',
        attempts = j.attempts - (not v.burnt)::integer,
        lease_token = null,
        payload = case when v.state = 'done' or j.state = 'done' then ''::bytea else j.payload end,
        finished_at = case when v.state in ('done', 'dead', 'unknown') then now() end,
        last_error = v.error
    from verdicts v
    where j.ctid = v.tid
    returning j.stream, j.seq, j.state, j.due_at
), followers as (
    update jobs.jobs j set
        due_at = case f.state when 'pending' then f.due_at when 'unknown' then 'infinity' else now() end
    from (
        select f.tid, head.state, head.due_at
        from settled head cross join lateral (
            select f.ctid as tid from jobs.jobs f
            where f.queue = %(queue)s and f.stream = head.stream and f.seq > head.seq and f.state = 'pending'
            order by f.seq limit 100
            for update
        ) f
    ) f
    where j.ctid = f.tid
)
select stream::text, seq from settled

-- name: extend
-- The leases of the jobs in hand; what doesn't come back is somebody else's now, or finished, or just being settled.
update jobs.jobs j set due_at = now() + %(lease)s * interval '1 second'
from (
    select j.tid
    from unnest(%(streams)s::uuid[], %(seqs)s::integer[], %(tokens)s::uuid[]) as mine (stream, seq, token)
    cross join lateral (
        select j.ctid as tid from jobs.jobs j
        where j.queue = %(queue)s and j.stream = mine.stream and j.seq = mine.seq and j.lease_token = mine.token
            and j.state = 'attempting'
        limit 1 for update skip locked
    ) j
) mine
where j.ctid = mine.tid
returning j.stream::text, j.seq

-- name: lanes_heal
update jobs.lanes set failures = 0, trips = 0, open_until = null, probing_until = null
where queue = %(queue)s and lane = any(%(lanes)s) and (failures > 0 or trips > 0)

-- name: lanes_known
insert into jobs.lanes (queue, lane) select %(queue)s, unnest(%(lanes)s::text[]) on conflict do nothing

-- name: lanes_locked
-- In one order, so that two workers never wait for each other.
select lane, failures, trips, greatest(extract(epoch from open_until - now()), 0)::float8
from jobs.lanes where queue = %(queue)s and lane = any(%(lanes)s) order by lane for update

-- name: lane_broken
update jobs.lanes set
    failures = %(failures)s,
    trips = %(trips)s,
    open_until = case when %(open_for)s > 0 then now() + %(open_for)s * interval '1 second' end,
    probing_until = null
where queue = %(queue)s and lane = %(lane)s

-- name: pause
-- The first reason stays: what follows is its consequence.
insert into jobs.lanes (queue, lane, paused_at, paused_reason) values (%(queue)s, %(lane)s, now(), %(reason)s)
on conflict (queue, lane) do update set paused_at = now(), paused_reason = excluded.paused_reason
where lanes.paused_at is null

-- name: resume
-- With a closed breaker: whoever resumes has repaired it.
update jobs.lanes set
    paused_at = null, paused_reason = '', failures = 0, trips = 0, open_until = null, probing_until = null
where queue = %(queue)s and lane = any(%(lanes)s) and (paused_at is not null or trips > 0)
returning lane

-- name: paused_for
select lane from jobs.lanes where queue = %(queue)s and paused_at is not null and paused_reason = %(reason)s

-- name: list_lanes
select coalesce(l.queue, j.queue), coalesce(l.lane, j.lane), coalesce(j.waiting, 0), coalesce(j.in_hand, 0),
    l.paused_at, coalesce(l.paused_reason, ''), case when l.open_until > now() then l.open_until end
from jobs.lanes l full join (
    select queue, lane, count(*) filter (where state = 'pending') as waiting,
        count(*) filter (where state = 'attempting') as in_hand
    from jobs.jobs where state in ('pending', 'attempting') group by queue, lane
) j on j.queue = l.queue and j.lane = l.lane
order by 1, 2

-- name: list_dead
select queue, stream::text, name, lane, state, attempts, finished_at, last_error
from jobs.jobs where state in ('dead', 'unknown') order by finished_at desc nulls last, stream, seq limit %(limit)s

-- name: show_job
-- An infinite time (a follower of an unknown job) is none here: no datetime can hold it.
select queue, stream::text, name, lane, state, attempts, nullif(due_at, 'infinity'), created_at, finished_at, last_error
from jobs.jobs where queue = %(queue)s and stream = %(stream)s and name = %(name)s

-- name: replayable
-- One, or all; those whose payload is gone (the request expired) can't be done again.
select queue, stream::text, name, lane, attempts
from jobs.jobs
where state in ('dead', 'unknown') and payload <> ''
    and (%(queue)s::text is null or (queue = %(queue)s and stream = %(stream)s::uuid and name = %(name)s))
order by finished_at, stream, seq

-- name: replay
update jobs.jobs set
    state = 'pending', due_at = now(), replayed_after = attempts, lease_token = null, finished_at = null
where queue = %(queue)s and stream = %(stream)s and name = %(name)s and state in ('dead', 'unknown')

-- name: wake_followers
update jobs.jobs set due_at = now()
where queue = %(queue)s and stream = %(stream)s and state = 'pending' and due_at = 'infinity'

-- name: release
-- What was held until the log's end was reached.
update jobs.jobs set state = 'pending', due_at = now() where queue = %(queue)s and state = 'held' and payload <> ''

-- name: notify
select pg_notify(%(channel)s, '')
