//! Proves that payments that wait behind an open dead letter are not released by
//! mistake: the command line asks at a terminal, the console says what it would do,
//! and both refuse unless they are forced.

use crate::prelude::*;

/// `paystream parked release` at a terminal, where this is typed; its exit status and
/// what it showed.
async fn at_a_terminal(stores: &Stores, arguments: &str, typed: &str) -> (Option<i32>, String) {
    let ours = operate(stores, &[]);
    let command = format!(
        "'{}' parked release ADA --reason 'tried by hand' --actor tester {arguments}",
        ours.as_std().get_program().display()
    );
    // Of util-linux: gives what it runs a terminal, and ends as that does.
    let mut script = like(&ours, "script", &["-qec", &command, "/dev/null"]);
    script.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = script.spawn().expect("script, of util-linux, starts");
    let mut terminal = child.stdin.take().unwrap();
    terminal.write_all(typed.as_bytes()).await.unwrap();
    // Open to the end: a closed one would be an answer.
    let output = in_time("the command ends", child.wait_with_output()).await.unwrap();
    drop(terminal);
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

async fn at_the_console(h: &Harness, method: Method, fields: &str) -> Reply {
    let query = if method == Method::GET { "?of=ADA" } else { "" };
    let request = h.api.browse(method, &format!("/console/act/unpark{query}"));
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    send(request.header("sec-fetch-site", "same-origin").body(fields.to_owned())).await
}

#[tokio::test]
async fn a_release_past_an_open_dead_letter_asks_and_has_to_be_forced() {
    let mut h = Harness::gateway(&["--park-customer", "--attempts-max=1"]).await;
    h.api.open_account("ADA", "1000").await;
    refuse_poison(&h.stores).await;
    h.api.pay_all("ADA", &[("POISON", "2"), ("a1", "5"), ("a2", "7")]).await;
    h.work().await;
    let waits = async || {
        for reference in ["a1", "a2"] {
            assert_eq!(h.api.payment(reference).await["status"], "parked", "{reference}");
        }
    };
    let would = "2 payments of ADA, 12.00";

    // The command line: refused without a question; asked, where it is forced.
    for arguments in ["", "--yes"] {
        let (status, shown) = at_a_terminal(&h.stores, arguments, "y\n").await;
        assert_eq!(status, Some(1), "{shown}");
        assert!(shown.contains("is still open: released now"), "{shown}");
        waits().await;
    }
    for no in ["n\n", "\n", "Yep\n"] {
        let (status, shown) = at_a_terminal(&h.stores, "--force", no).await;
        assert_eq!(status, Some(1), "{shown}");
        assert!(shown.contains(would), "{shown}");
        assert!(shown.contains("Release them? [y/N]"), "{shown}");
        assert!(shown.contains("Nothing was changed"), "{shown}");
        waits().await;
    }
    let (status, shown) = at_a_terminal(&h.stores, "--force --dry-run", "y\n").await;
    assert_eq!(status, Some(0), "{shown}");
    assert!(shown.contains(would) && shown.contains("Nothing was changed"), "{shown}");
    waits().await;

    // The console: it says so beforehand, and refuses likewise.
    let page = at_the_console(&h, Method::GET, "").await;
    assert!(page.text.contains(would), "{}", page.text);
    assert!(page.text.contains("before the dead letter that they wait for"), "{}", page.text);
    let refused = at_the_console(&h, Method::POST, "of=ADA&reason=in+haste&actor=tester").await;
    assert_eq!(refused.status, 422, "{}", refused.text);
    assert!(refused.text.contains("is still open: released now"), "{}", refused.text);
    waits().await;
    let logged = "select count(*) from audit_log where action = 'parked_released'";
    assert_eq!(h.stores.count(logged).await, 0);

    let (status, shown) = at_a_terminal(&h.stores, "--force", "y\n").await;
    assert_eq!(status, Some(0), "{shown}");
    assert!(shown.contains("2 payments of ADA released"), "{shown}");
    assert_eq!(h.stores.count(logged).await, 1);
    assert_eq!(h.api.balance("ADA").await["total_paid"], "12.00");
    h.settled().await;
}
