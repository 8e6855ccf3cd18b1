//! What most tests name: the parts of the harness, and a few types of others.

pub use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs,
    path::Path,
    process::Stdio,
    time::Duration,
};

pub use futures_util::future::join_all;
pub use paystream::{
    clock,
    domain::{CustomerId, Fence, Reference, StreamId, partition_of},
    ledger::{self, Ledger},
    operations::{Act, KINDS, Mend, Operations, Refusal},
    stream::{self, Streams},
};
pub use paystream_dev::RedisServer;
pub use reqwest::{Method, RequestBuilder};
pub use serde_json::{Value, json};
pub use sqlx::{AssertSqlSafe, Connection, PgConnection};
pub use tokio::{
    io::AsyncReadExt,
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    process::Command,
    task::JoinSet,
};

pub use crate::{
    doctor::{doctor, until_found},
    failover::{LOST, Pair, pay},
    harness::{
        Api, Harness, OWNER, PARTITIONS, Reply, Stores, as_user, ask, but, connect_to_redis,
        empty_directory, eventually, has, in_background, in_time, own_postgres, own_redis, payment,
        redis_in, send, try_send, until,
    },
    idempotency::elsewhere,
    load::{CUSTOMERS, Load, Loaded, assert_applied},
    mending::{everything, logged, noted_by, operations, read_again, signed},
    observability::read,
    ownership::{
        SHORT, lock, owners, sessions, until_spread, verify, verify_after, with_gateway, worker,
    },
    poison::{allow_poison, refuse_poison},
    process::{Ended, Process, like, operate, paystream, run, serve},
    proxy::{Proxy, Way},
    resize::{resize, served},
    stuck::moments,
};
