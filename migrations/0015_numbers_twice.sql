-- A Redis that went back unseen gives sequences out again: what came under one is
-- told apart by its entry.
alter table conflicts drop constraint conflicts_pkey, add primary key (partition, sequence, stream_id);
alter table duplicates drop constraint duplicates_pkey, add primary key (partition, sequence, stream_id);
alter table parked drop constraint parked_pkey, add primary key (partition, sequence, stream_id);
