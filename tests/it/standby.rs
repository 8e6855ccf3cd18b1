//! Proves what holds when PostgreSQL has a standby: a commit that may not be there is not
//! believed, and a promotion is followed.

use crate::prelude::*;

/// Sessions of the lanes of `tester` that wait for the synchronous standby.
const LANES: &str = "wait_event = 'SyncRep' and application_name = 'paystream tester'";

/// Every commit waits for a standby from here on, and there is none.
async fn await_nobody(stores: &Stores) {
    stores.sql("alter system set synchronous_standby_names = 'nobody'").await;
    stores.sql("select pg_reload_conf()").await;
    // The setting counts when a process of the server has read it.
    let mut probe = stores.session().await;
    let probing = tokio::spawn(async move {
        let message = "select pg_logical_emit_message(true, 'probe', '')";
        while sqlx::query(message).execute(&mut probe).await.is_ok() {}
    });
    let waits = "select count(*) from pg_stat_activity
         where wait_event = 'SyncRep' and query like '%''probe''%'";
    stores.until(1, waits).await;
    probing.abort();
}

/// Waits for a session that waits for the standby, and has it wait no more.
async fn cancel(stores: &Stores, which: &str) -> i64 {
    let waiting = format!("select pid::bigint from pg_stat_activity where {which}");
    let pid = eventually(&format!("one waits for the standby: {which}"), async || {
        stores.values::<i64>(&waiting).await.first().copied()
    })
    .await;
    stores.sql(&format!("select pg_cancel_backend({pid})")).await;
    pid
}

#[tokio::test]
async fn a_commit_that_only_warns_is_of_unknown_fate() {
    let (_postgres, stores) = Stores::on_own_postgres("warned").await;
    let h = Harness::on(stores, &["--lease=60s"]).await.account("ADA", "1000").await;
    let partition = h.api.pay("r0", "ADA", "1").await["partition"].as_u64().unwrap();
    h.settled().await;
    await_nobody(&h.stores).await;

    let opening = async {
        let customer = elsewhere("ADA");
        let account = json!({ "customer_id": customer, "asset_value": "1000", "term_weeks": 50 });
        h.api.post("/api/v1/customers", &account).await
    };
    let others = "wait_event = 'SyncRep' and query = 'COMMIT' and application_name = 'paystream'";
    let (refused, _) = tokio::join!(opening, cancel(&h.stores, others));
    refused.is_problem(503, "ledger_unavailable");

    h.api.post_payment(&payment("r1", "ADA", "1")).await.is(202);
    let first = cancel(&h.stores, &format!("{LANES} and query = 'COMMIT'")).await;
    // The lane begins anew, and waits again.
    let again = format!("select count(*) from pg_stat_activity where {LANES} and pid <> {first}");
    h.stores.until(1, &again).await;
    let stream = h.stores.key(partition, "stream");
    let pending: Vec<redis::Value> = h.stores.ask(&["XPENDING", &stream, "ledger"]).await;
    assert_eq!(pending[0], redis::Value::Int(1), "nothing is acknowledged");

    h.stores.sql("alter system reset synchronous_standby_names").await;
    h.stores.sql("select pg_reload_conf()").await;
    h.settled().await;
    assert_eq!(h.api.balance("ADA").await["total_paid"], "2.00");
    h.stores.audit().await;
}
