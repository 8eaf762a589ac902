-- Events that name an email without a tag of ours wait until an ack proves that their provider got it.
alter table correlation.parked add column claimed uuid;
comment on column correlation.parked.claimed is 'the email that the event names without proof; null if it names none';
