-- name: limit_time
select set_config('statement_timeout', %(timeout)s, true)

-- name: email
select version, valid_from, state from projections.history
where email_id = %(email_id)s and tenant = %(tenant)s and valid_from <= %(as_of)s
union all
select version, valid_from, state from projections.versions
where email_id = %(email_id)s and tenant = %(tenant)s and valid_from <= %(as_of)s and valid_to > %(as_of)s

-- name: versions
select version, valid_from, state from (
    select version, valid_from, state from projections.versions
    where email_id = %(email_id)s and tenant = %(tenant)s and valid_from <= %(as_of)s and version > %(version)s
    union all
    select version, valid_from, state from projections.history
    where email_id = %(email_id)s and tenant = %(tenant)s and valid_from <= %(as_of)s and version > %(version)s
) as all_versions
order by version limit %(limit)s

-- name: timelines
-- Each fact as it was read at as_of, with the places that were known then. Rows of an earlier version of the product
-- have no times: of them the time of recording counts.
select t.email_id::text, array(
        select place from unnest(t.places, t.places_known_from) with ordinality as each (place, known_from, nth)
        where coalesce(each.known_from, t.known_from, t.recorded_at) <= %(as_of)s order by nth),
    coalesce((
        select s.fact from projections.superseded_facts s
        where s.email_id = t.email_id and s.event_id = t.event_id
            and coalesce(s.known_from, %(as_of)s) <= %(as_of)s and s.known_to > %(as_of)s
        order by s.revision desc limit 1), t.fact)
from projections.timeline t
where t.email_id = any(%(email_ids)s::uuid[]) and coalesce(t.known_from, t.recorded_at) <= %(as_of)s
order by coalesce(t.known_from, t.recorded_at), t.email_id, t.event_id limit %(limit)s

-- name: changes
-- By the time since which a version is valid; the branches are read in order, each from an index. Other brands' versions
-- are left out only after the limit, so that a brand with few emails does not read all of its tenant's. The last one that
-- was looked at is in the result in any case, without a state if it is another brand's.
with looked_at as materialized (
    select *, row_number() over (order by valid_from, email_id, version) as nth from (
        (select email_id, valid_from, version, state, brand_uuid from projections.history
        where tenant = %(tenant)s and valid_from <= %(until)s
            and (valid_from, email_id) >= (%(valid_from)s::bigint, %(email_id)s::uuid)
            and (valid_from, email_id, version) > (%(valid_from)s::bigint, %(email_id)s::uuid, %(version)s::integer)
        order by valid_from, email_id limit %(scan_limit)s)
        union all
        (select email_id, valid_from, version, state, brand_uuid from projections.versions
        where tenant = %(tenant)s and valid_from <= %(until)s
            and (valid_from, email_id, version) > (%(valid_from)s::bigint, %(email_id)s::uuid, %(version)s::integer)
        order by valid_from, email_id, version limit %(scan_limit)s)
    ) as changes
    order by valid_from, email_id, version limit %(scan_limit)s
)
select email_id::text, valid_from, version,
    case when %(brand_uuid)s::uuid is null or brand_uuid = %(brand_uuid)s then state end, nth = %(scan_limit)s
from looked_at
where %(brand_uuid)s::uuid is null or brand_uuid = %(brand_uuid)s or nth = %(scan_limit)s
order by valid_from, email_id, version limit %(limit)s

-- name: page_by_acceptance
-- Each email's version of the moment is looked up, so a page takes the same time whatever the moment is.
select r.email_id::text, r.accepted_at, v.state, v.version, v.valid_from
from projections.requests r cross join lateral (
    select s.state, s.version, s.valid_from from projections.history s
    where s.email_id = r.email_id and s.tenant = %(tenant)s and s.valid_from <= %(as_of)s and {states}
    union all
    select s.state, s.version, s.valid_from from projections.versions s
    where s.email_id = r.email_id and s.tenant = %(tenant)s and s.valid_from <= %(as_of)s
        and s.valid_to > %(as_of)s and {states}
) as v
where r.tenant = %(tenant)s and r.accepted_at <= %(as_of)s and {requests}
{order} limit %(limit)s

-- name: page_by_version
select email_id::text, at, state, version, valid_from from ({branches}) as v {order} limit %(limit)s

-- name: current_of_page
(select s.email_id, {at} as at, s.state, s.version, s.valid_from from projections.history s {join}
where s.tenant = %(tenant)s and s.valid_from <= %(as_of)s and {conditions} {order} limit %(limit)s)

-- name: closed_of_page
(select s.email_id, {at} as at, s.state, s.version, s.valid_from from projections.versions s {join}
where s.tenant = %(tenant)s and s.listed is not null and int8range(s.valid_from, s.valid_to) @> %(as_of)s::bigint
    and {conditions} {order} limit %(limit)s)

-- name: closed_unlisted_of_page
-- Each of the two partial indexes has half of the versions.
(select s.email_id, {at} as at, s.state, s.version, s.valid_from from projections.versions s {join}
where s.tenant = %(tenant)s and s.listed is null and int8range(s.valid_from, s.valid_to) @> %(as_of)s::bigint
    and {conditions} {order} limit %(limit)s)

-- name: count
select count(*) from ({page}) as page
