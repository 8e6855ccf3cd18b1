#!/bin/sh
# Starts a Redis with the users that paystream logs in as, each with the commands that it needs
# and no other (docs/roles.md). Their passwords are in the environment, and on no command line.
#
#   sh with-users.sh redis-server --appendonly yes ...
#
# Nobody can log in as `default`, and it keeps its rights all the same: Redis reads its append-only
# file as that user, and would leave out every write that it may not do. `health` may ask whether
# Redis is there, `monitor` (the telemetry collector) how it is; `admin` may do everything and is
# for people.
set -eu

exec "$@" - <<USERS
user default off resetpass ~* &* +@all
user admin on >$ADMIN_PASSWORD ~* &* +@all
user health on nopass resetkeys resetchannels -@all +ping
user monitor on >$MONITOR_PASSWORD resetkeys resetchannels -@all +info +cluster|info
user gateway on >$GATEWAY_PASSWORD %R~paystream:* resetchannels -@all +client|setname +cluster|info +cluster|slots +config|get +exists +get +getrange +hget +hkeys +hlen +hmget +info +memory|usage +mget +ping +script|load +time +wait +xinfo|groups +xinfo|stream +xlen +xpending +xrange +xrevrange (~paystream:* +evalsha) (~paystream:*:stream +xadd) (~paystream:*:seq ~paystream:*:replicated ~paystream:*:lost ~paystream:*:lineage ~paystream:*:backlog ~paystream:*:refs ~paystream:*:refs-beside ~paystream:*:ref:* ~paystream:*:beside:* ~paystream:*:balance:* ~paystream:webhook:* ~paystream:topology +set +del +incr) (~paystream:*:refs:* ~paystream:*:refs-beside:* +hset +pexpireat) (~paystream:*:shares +hincrby +hdel)
user worker on >$WORKER_PASSWORD ~paystream:* resetchannels &paystream:worker:* -@all +append +client|kill +client|list +client|setname +cluster|info +cluster|slots +config|get +del +evalsha +exists +get +getrange +hget +hmget +hset +info +memory|usage +mget +persist +ping +pubsub|numsub +script|load +set +subscribe +time +xack +xadd +xclaim +xgroup|create +xgroup|delconsumer +xgroup|setid +xinfo|consumers +xinfo|groups +xinfo|stream +xlen +xpending +xrange +xread +xreadgroup +xrevrange +xsetid +xtrim
user operations on >$OPERATIONS_PASSWORD ~paystream:* resetchannels -@all +client|setname +cluster|info +cluster|slots +config|get +del +evalsha +exists +get +getrange +hdel +hget +hincrby +hkeys +hlen +hmget +hset +incr +info +memory|usage +mget +pexpireat +ping +pttl +script|load +set +time +wait +xack +xadd +xgroup|create +xgroup|delconsumer +xgroup|destroy +xgroup|setid +xinfo|groups +xinfo|stream +xlen +xpending +xrange +xrevrange
USERS
