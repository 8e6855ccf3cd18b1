-- Whether the streams are in a Redis Cluster, whose keys have other tags. A process whose address is
-- of the other kind would serve streams that nobody else knows. Null until `migrate` runs.
alter table topology add column in_cluster boolean;
