-- Statements that change many rows first find and lock them by index, and then update them by their physical location
-- (ctid). With a join by key the planner would choose the method, and without fresh statistics (in a table that just
-- filled) it scans the whole table for each row: seconds instead of a millisecond, measured. A row that changed between
-- the snapshot of the statement and its lock is missed once; a caller that must not miss it repeats the statement
-- (JobStore.settle).

-- name: claim
-- Lease the first open job of each stream that is due, fairly over the tenants first and over the lanes (tenant/brand)
-- of each tenant second. The tenant or lane with fewer jobs in hand comes first, so a tenant with a thousand lanes gets
-- as much as a tenant with one.
--   lanes    each lane with open jobs and the time its first job is due: a loose index scan, so that the cost grows
--            with the lanes, not with the backlog
--   probes   lanes whose breaker is open and past its pause: only one of all workers gets the row, and one job
--   due      lanes that may get jobs now; mail of suspended tenants may not, what they owe Fast Track may
--   sizes    the number of lanes of the tenant that are due, and the number of tenants
--   rooms    how many jobs a lane may get: up to its own limit, and at most half of the capacity that the other lanes
--            leave of this process, so that no number of stuck lanes can use all of it; but at least its equal share if
--            there are other tenants. A tenant beside others gets at most three quarters of what they leave
--   picked   the lanes whose jobs are read: the first of each tenant, then the second of each …, up to twice the free
--            capacity, with about twice as many jobs, so that the number of locks depends on the capacity, not on the
--            lanes. Capacity that is left if lanes are uneven is filled by the next claim, milliseconds later
--   heads    jobs that are due and have no earlier open job of the same email; a job whose lease ran out is due (due_at)
--   turns    the order of the heads of each tenant: the first of each lane, then the second of each lane …
--   claimed  the leased jobs. They are returned beside the server's start, which is there without a job, too; where it is
--            not the one that the caller expects (null: any), nothing is claimed. So one statement is one transaction
-- Lanes are compared by window functions, not by joins: without statistics the planner would join each with each.
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
        and (
            %(queue)s <> 'dispatch'
            or split_part(lanes.lane, '/', 1) not in (select tenant from admin.tenants where suspended_at is not null)
        )
        and coalesce(%(server)s, pg_postmaster_start_time()) = pg_postmaster_start_time()
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
), claimed as (
    update jobs.jobs j set
        state = 'attempting',
        attempts = j.attempts + 1,
        lease_token = %(token)s,
        due_at = now() + %(lease)s * interval '1 second'
    from chosen
    where j.ctid = chosen.tid
    returning
        j.queue, j.stream::text, j.seq, j.name, j.lane, j.attempts, j.attempts - j.replayed_after as tries,
        chosen.state = 'attempting' as unknown, j.lease_token::text, j.payload, j.route, j.traceparent
)
select server.started_at, claimed.*
from (select pg_postmaster_start_time() as started_at) server left join claimed on true

-- name: park
-- A job behind an earlier one that is not due yet (or that an operator must decide about) is not due either. It is moved
-- away from the front of the index, so that a claim need not scan the followers of a long retry. The lock on the head
-- makes this statement wait for (or see) a settlement of the head, because it would otherwise overwrite the due time
-- that the settlement gives to followers. Only the front of each lane is read.
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
-- Only with the token of the lease. A state that the intake has set since (it read the ack that we appended) is kept.
-- Followers become due when their head is done or dead, and get the due time of their head otherwise.
-- Rows are locked in the same order here and in the intake, which excludes deadlocks.
-- The breakers of lanes with a healthy result are closed.
with verdicts as materialized (
    select j.tid, j.lane, v.state, v.delay, v.burnt, v.error, v.healthy
    from (
        select * from unnest(
            %(streams)s::uuid[], %(seqs)s::integer[], %(tokens)s::uuid[],
            %(states)s::text[], %(delays)s::float8[], %(burnt)s::boolean[], %(errors)s::text[], %(healthy)s::boolean[]
        ) as v (stream, seq, token, state, delay, burnt, error, healthy) order by stream, seq
    ) v cross join lateral (
        select j.ctid as tid, j.lane from jobs.jobs j
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
        finished_at = case when j.state in ('done', 'dead') or v.state in ('done', 'dead', 'unknown') then now() end,
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
), healed as (
    update jobs.lanes set failures = 0, trips = 0, open_until = null, probing_until = null
    where queue = %(queue)s and lane in (select lane from verdicts where healthy) and (failures > 0 or trips > 0)
)
select stream::text, seq from settled

-- name: extend
-- Extend the leases of the jobs in hand. A job that is not returned is another worker's now, finished or being settled.
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
-- In one order, which excludes deadlocks between workers.
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
-- The first reason is kept; later ones are its consequences.
insert into jobs.lanes (queue, lane, paused_at, paused_reason) values (%(queue)s, %(lane)s, now(), %(reason)s)
on conflict (queue, lane) do update set paused_at = now(), paused_reason = excluded.paused_reason
where lanes.paused_at is null

-- name: resume
-- The breaker is closed as well: an operator who resumes a lane has repaired the cause.
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
from jobs.jobs
where state in ('dead', 'unknown') and (%(tenant)s::text is null or split_part(lane, '/', 1) = %(tenant)s)
    and (%(wanted_queue)s = '' or queue = %(wanted_queue)s) and (%(wanted_lane)s = '' or lane = %(wanted_lane)s)
order by finished_at desc nulls last, stream, seq limit %(limit)s

-- name: show_job
-- The infinite due time of a follower of an unknown job becomes null: a Python datetime cannot hold it.
select queue, stream::text, name, lane, state, attempts, nullif(due_at, 'infinity'), created_at, finished_at, last_error
from jobs.jobs where queue = %(queue)s and stream = %(stream)s and name = %(name)s

-- name: replayable
-- One job, or all. Jobs without a payload (their request has expired) cannot be done again.
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

-- name: notify
select pg_notify(%(channel)s, '')

-- name: expire_done
-- Locked rows are skipped: whoever has them may still write them, and the next sweep finds them.
delete from jobs.jobs where ctid = any(array(
    select ctid from jobs.jobs
    where queue = %(queue)s and state = 'done' and finished_at < now() - %(days)s * interval '1 day'
    order by finished_at limit %(limit)s for update skip locked
))

-- name: expire_dead
delete from jobs.jobs where ctid = any(array(
    select ctid from jobs.jobs
    where queue = %(queue)s and state = 'dead' and finished_at < now() - %(days)s * interval '1 day'
    order by finished_at limit %(limit)s for update skip locked
))

-- name: expire_held
-- Jobs that were made of a deferral whose request never came: nobody can do them.
delete from jobs.jobs where ctid = any(array(
    select ctid from jobs.jobs
    where queue = %(queue)s and state = 'held' and payload = '' and created_at < now() - %(days)s * interval '1 day'
    limit %(limit)s for update skip locked
))

-- name: expire_lanes
-- Lanes are named by their callers, so that there may be any number of them. One that is not paused, has no open job
-- and whose breaker let jobs through a day ago is as good as new.
delete from jobs.lanes where ctid = any(array(
    select l.ctid from jobs.lanes l
    where l.queue = %(queue)s and l.paused_at is null
        and (l.open_until is null or l.open_until < now() - interval '1 day')
        and not exists (
            select from jobs.jobs j
            where j.queue = l.queue and j.lane = l.lane and j.state in ('pending', 'attempting')
        )
    limit %(limit)s for update of l skip locked
))
