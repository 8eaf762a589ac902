-- migrate: outside a transaction
-- Parked claims are looked at again and again, in their order, and one email's by `mailfold trace`.
drop index concurrently if exists correlation.parked_claims;
create index concurrently parked_claims on correlation.parked (partition, place)
    where claimed is not null and email_id is null;
drop index concurrently if exists correlation.parked_claimed;
create index concurrently parked_claimed on correlation.parked (claimed) where claimed is not null;
