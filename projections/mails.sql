-- name: limit_time
-- Clients choose the filter and the order: no query of theirs may hold a connection for long.
set local statement_timeout = '10s'

-- name: page
-- Oldest first, so that new mails do not move what is on a page.
select mail::text from projections.mails
where tenant = %(tenant)s and mail is not null and (%(where)s::jsonpath is null or mail @@ %(where)s::jsonpath)
order by created_at, mail_id limit %(limit)s offset %(offset)s

-- name: sorted_page
select mail::text from projections.mails
where tenant = %(tenant)s and mail is not null and (%(where)s::jsonpath is null or mail @@ %(where)s::jsonpath)
order by
    case when not %(down0)s then mail #> %(path0)s::text[] end, case when %(down0)s then mail #> %(path0)s::text[] end desc nulls last,
    case when not %(down1)s then mail #> %(path1)s::text[] end, case when %(down1)s then mail #> %(path1)s::text[] end desc nulls last,
    case when not %(down2)s then mail #> %(path2)s::text[] end, case when %(down2)s then mail #> %(path2)s::text[] end desc nulls last,
    created_at, mail_id
limit %(limit)s offset %(offset)s

-- name: total
select count(*) from projections.mails
where tenant = %(tenant)s and mail is not null and (%(where)s::jsonpath is null or mail @@ %(where)s::jsonpath)

-- name: queued
-- A mail is queued until a provider has accepted the email of each recipient. It is failed if none is on its way any
-- more and at least one was given up.
with waiting as (
    select h.message_id as mail_id, bool_or(h.status <> 'failed') as on_its_way,
        bool_or(exists (
            select from jobs.jobs j where j.queue = 'dispatch' and j.stream = h.email_id and j.state = 'attempting')) as in_hand
    from projections.history h
    where h.tenant = %(tenant)s and h.dialect = 'extrahorizon' and h.status in ('accepted', 'deferred', 'failed')
    group by h.message_id
), queued as (
    select m.created_at, m.mail_id, jsonb_strip_nulls(jsonb_build_object(
        'id', m.mail_id,
        'status', case when w.in_hand then 'sending' when w.on_its_way then 'queued' else 'failed' end,
        'from', m.mail -> 'from',
        'to', m.mail #> '{recipients,to}',
        'cc', m.mail #> '{recipients,cc}',
        'bcc', m.mail #> '{recipients,bcc}',
        'reply_to', m.mail #> '{reply_to,0}',
        'subject', m.mail -> 'subject',
        'text', m.mail -> 'body',
        'template_data', case when m.mail ? 'template_id' then jsonb_build_object(
            'template_id', m.mail -> 'template_id', 'template_name', m.mail -> 'template_name',
            'language', m.mail -> 'language', 'time_zone', m.mail -> 'time_zone', 'content', m.mail -> 'content') end,
        'creation_timestamp', m.mail -> 'creation_timestamp',
        'update_timestamp', m.mail -> 'update_timestamp')) as mail
    from waiting w join projections.mails m using (mail_id)
    where m.tenant = %(tenant)s and m.mail is not null
), asked as (
    select * from queued where %(where)s::jsonpath is null or mail @@ %(where)s::jsonpath
)
select mail::text, (select count(*) from asked) from asked
order by
    case when not %(down0)s then mail #> %(path0)s::text[] end, case when %(down0)s then mail #> %(path0)s::text[] end desc nulls last,
    case when not %(down1)s then mail #> %(path1)s::text[] end, case when %(down1)s then mail #> %(path1)s::text[] end desc nulls last,
    case when not %(down2)s then mail #> %(path2)s::text[] end, case when %(down2)s then mail #> %(path2)s::text[] end desc nulls last,
    created_at, mail_id
limit %(limit)s offset %(offset)s
