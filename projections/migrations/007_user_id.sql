-- Fast Track sends `user_id` as a string, and its document has an integer in the webhook: a destination may ask for it.
alter table admin.destinations add column user_id_integer boolean not null default false;
comment on column admin.destinations.user_id_integer is 'false: user_id goes back as it came';
