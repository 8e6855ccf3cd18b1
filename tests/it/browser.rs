//! Proves, in a real browser, that an operator can see what is stuck, understand
//! it and mend it in the console: live figures move, a rebalance shows, a poison
//! entry is found, explained and redriven, a dead letter is discarded with a
//! reason, and the console stays honest when a store is away. Keeps pictures in
//! `target/console`.

use crate::{chromium::Browser, ownership, prelude::*};

/// Every page that needs nothing in its path.
const PAGES: [&str; 10] = [
    "/console",
    "/console/partitions",
    "/console/stuck",
    "/console/payments",
    "/console/dead-letters",
    "/console/suspense",
    "/console/conflicts",
    "/console/parked",
    "/console/customers",
    "/console/audit",
];

/// The number that a card of the overview shows.
async fn figure(browser: &Browser, name: &str) -> Option<i64> {
    let script = format!(
        "const card = [...document.querySelectorAll('.card')]
             .find(card => card.querySelector('.name').textContent === '{name}');
         return card ? card.querySelector('.value').textContent : ''"
    );
    let shown = browser.script(&script).await;
    shown.as_str()?.replace(',', "").parse().ok()
}

#[tokio::test]
async fn live_figures_move_while_payments_are_posted() {
    let h = Harness::gateway(&[]).await.account("ADA", "100000").await;
    let browser = Browser::open(&h.api.url).await;
    browser.shows("/console", "live").await;
    eventually("the figure is there", async || figure(&browser, "Not taken yet").await).await;
    h.api.pay_each("live", 0..25).await;
    until("what waits shows without a reload", async || {
        figure(&browser, "Not taken yet").await == Some(25)
    })
    .await;
    browser.reads("no living owner").await;
    // The rate is of the last seconds, so that something must come meanwhile.
    let posted = std::cell::Cell::new(0);
    eventually("the rate is above zero", async || {
        for _ in 0..5 {
            posted.set(posted.get() + 1);
            h.api.pay(&format!("rate{}", posted.get()), "ADA", "1").await;
        }
        figure(&browser, "Accepted").await.filter(|rate| *rate > 0)
    })
    .await;
    browser.close().await;
}

#[tokio::test]
async fn figures_that_fall_silent_are_not_called_live() {
    let h = Harness::gateway(&[]).await;
    let network = Proxy::before(&h.api.url).await;
    let browser = Browser::open(network.url.trim_end_matches('/')).await;
    browser.go("/console").await;
    let is = async |mode: &str| {
        let script = "const state = document.getElementById('live-state');
             return state ? state.dataset.mode : ''";
        eventually(&format!("the figures are {mode}"), async || {
            let shown = browser.client.execute(script, Vec::new()).await.ok()?;
            (shown.as_str()? == mode).then_some(())
        })
        .await;
    };
    is("live").await;
    // Nothing breaks and nothing comes: only its silence tells.
    network.set(Way::Dumb);
    is("lost").await;
    browser.reads("not live").await;
    assert!(figure(&browser, "Not taken yet").await.is_some(), "what was known stays");
    network.set(Way::Open);
    is("live").await;
    // A request that was given up is an error in the browser's log, and no surprise.
    browser.complaints().await;
    browser.close().await;
}

#[tokio::test]
async fn a_rebalance_shows_without_a_reload() {
    let mut h = Harness::gateway(&["--lease", "10s"]).await;
    h.start_worker();
    let browser = Browser::open(&h.api.url).await;
    browser
        .shows("/console/partitions", "Every partition has a living owner; 1 worker running.")
        .await;
    browser.script("document.getElementById('main').dataset.mark = 'same document'").await;
    let owners = async || -> BTreeSet<String> {
        let script = "return [...document.querySelectorAll('tbody tr td:nth-child(2)')]
            .map(cell => cell.textContent.trim())";
        let cells = browser.script(script).await;
        cells.as_array().unwrap().iter().map(|c| c.as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(owners().await, BTreeSet::from(["tester".to_owned()]));
    let second = ownership::worker(&h.stores, "second", &[]).await;
    until("both own some", async || owners().await.len() == 2).await;
    browser.reads("2 workers running").await;
    second.stop().await;
    until("one owns all", async || owners().await.len() == 1).await;
    let mark = browser.script("return document.getElementById('main').dataset.mark").await;
    let page = browser
        .script(
            "return [performance.getEntriesByType('navigation')[0].type, performance.now(),
                document.getElementById('live-state').textContent].join(', ')",
        )
        .await;
    assert_eq!(mark, "same document", "{page}");
    browser.close().await;
}

#[tokio::test]
async fn a_poison_entry_is_found_explained_and_redriven() {
    let mut h = Harness::gateway(&["--attempts-max", "10"]).await.account("ADA", "100000").await;
    refuse_poison(&h.stores).await;
    h.api.pay("sound1", "ADA", "10").await;
    h.api.pay("POISON1", "ADA", "250").await;
    let browser = Browser::open(&h.api.url).await;
    // Found while it is tried, for some seconds.
    h.start_worker();
    until("it is on the page of stuck work", async || {
        browser.go("/console/stuck").await;
        let text = browser.text().await;
        text.contains("POISON1") && text.contains("poison, ")
    })
    .await;
    browser.picture("poison", 1280).await;
    h.api.until_is("POISON1", "dead_lettered").await;
    // Its own page leads to its dead letter, and so does the overview.
    browser.go("/console/payments?reference=POISON1").await;
    let number = h.stores.count("select id from dead_letters").await.to_string();
    browser.follow(&number).await;
    browser.reads("The entry as it was").await;
    browser.go("/console").await;
    browser.follow("1 payment could not be settled and became a dead letter.").await;
    browser.reads("no payment is called POISON1").await;
    browser.find("tbody th a").await.click().await.unwrap();
    browser.reads("The entry as it was").await;
    browser.follow("Redrive").await;
    // The dry run says that the cause is still there.
    browser.reads("Dry run: ").await;
    browser.reads("Nothing would change.").await;
    allow_poison(&h.stores).await;
    browser.client.refresh().await.unwrap();
    let foretold = browser.find("#foretold").await.text().await.unwrap();
    assert!(!foretold.contains("Nothing would change"), "{foretold}");
    browser.fill("#reason", "the rule was wrong, ticket 4711").await;
    browser.fill("#actor", "ada").await;
    browser.picture("redrive", 1280).await;
    browser.press("Redrive").await;
    browser.reads("Redriven: the payment is settled").await;
    browser.follow("POISON1").await;
    browser.reads("the rule was wrong, ticket 4711").await;
    browser.reads("became a dead letter").await;
    browser.picture("payment", 1280).await;
    let life = browser.text().await;
    assert!(life.contains("applied to ADA"), "{life}");
    assert_eq!(h.api.balance("ADA").await["total_paid"], "260.00");
    browser.close().await;
    h.settled().await;
}

#[tokio::test]
async fn a_dead_letter_is_discarded_with_a_reason_by_keyboard_alone() {
    let mut h = Harness::gateway(&["--attempts-max", "1"]).await.account("ADA", "100000").await;
    refuse_poison(&h.stores).await;
    h.api.pay("POISON7", "ADA", "250").await;
    h.start_worker();
    h.api.until_settled().await;
    let browser = Browser::open(&h.api.url).await;
    let number = h.stores.count("select id from dead_letters").await;
    browser.go(&format!("/console/dead-letters/{number}")).await;
    // From the top of the page, nothing but tabs and the return key.
    let tab_to = async |wanted: &str| {
        for _ in 0..40 {
            browser.keys("\u{e004}").await;
            let at = "const e = document.activeElement; return e.id || e.textContent.trim()";
            let at = browser.script(at).await;
            if at.as_str().unwrap().starts_with(wanted) {
                return;
            }
        }
        panic!("{wanted} cannot be reached by keyboard");
    };
    browser.keys("\u{e004}").await;
    let first = browser.script("return document.activeElement.className").await;
    assert_eq!(first, "skip", "the first stop skips to the content");
    tab_to("Discard").await;
    let outline = "return getComputedStyle(document.activeElement).outlineStyle";
    assert_eq!(browser.script(outline).await, "solid", "the focus can be seen");
    browser.keys("\u{e007}").await;
    browser.reads("Discard dead letter").await;
    tab_to("reason").await;
    browser.keys("the bank sends it again under another reference").await;
    tab_to("actor").await;
    browser.keys("ben").await;
    browser.keys("\u{e007}").await;
    browser.reads("Discarded: it will not be settled").await;
    browser.shows("/console/audit", "the bank sends it again under another reference").await;
    let row = browser.find("tbody tr").await.text().await.unwrap();
    assert!(row.contains("ben") && row.contains("discarded"), "{row}");
    browser.close().await;
    h.settled().await;
}

#[tokio::test]
async fn every_page_is_useful_when_empty_and_breaks_no_policy() {
    let h = Harness::start().await;
    let browser = Browser::open(&h.api.url).await;
    for page in PAGES {
        browser.go(page).await;
        let text = browser.text().await;
        assert!(text.len() > 200, "{page}: {text}");
        let complaints = browser.complaints().await;
        assert!(complaints.is_empty(), "{page}: {complaints:#?}");
    }
    browser.shows("/console/stuck", "Nothing is stuck.").await;
    browser
        .shows("/console/payments?reference=NOBODY-1", "No payment has the reference NOBODY-1")
        .await;
    // The search field is a key away.
    browser.keys("/").await;
    assert_eq!(browser.script("return document.activeElement.id").await, "search");
    // Nothing is cut off on a narrow screen.
    browser.width(400, 800, 1).await;
    for page in PAGES {
        browser.go(page).await;
        let wide = browser.script("return document.documentElement.scrollWidth").await;
        assert!(wide.as_u64().unwrap() <= 400, "{page} is {wide} wide");
    }
    browser.close().await;
}

#[tokio::test]
async fn the_console_is_honest_while_postgresql_is_away() {
    let (mut postgres, stores) = Stores::on_own_postgres("postgres-browser").await;
    let h = Harness::on(stores, &[]).await;
    let browser = Browser::open(&h.api.url).await;
    browser.shows("/console/partitions", "Every partition has a living owner").await;
    browser.shows("/console", "Accepted").await;
    postgres.kill().await.unwrap();
    // Told live, on the page that was open.
    browser.reads("PostgreSQL has not answered since").await;
    assert_eq!(figure(&browser, "Dead letters").await, None);
    let text = browser.text().await;
    assert!(text.contains("unknown"), "{text}");
    browser.picture("postgresql-away", 1280).await;
    let complaints = browser.complaints().await;
    assert!(complaints.is_empty(), "{complaints:#?}");
    for page in PAGES {
        browser.shows(page, "PostgreSQL").await;
        let text = browser.text().await;
        assert!(text.contains("Overview") && !text.contains("Something went wrong"), "{text}");
    }
    // Who owns what is unknown, which is not nobody: the worker runs.
    browser.shows("/console/partitions", "last owners known to Redis: tester 8").await;
    browser.reads("last known: tester").await;
    let text = browser.text().await;
    assert!(!text.contains("paystream serve worker") && !text.contains("nobody"), "{text}");
    let nobody = browser.script("return document.querySelectorAll('.nobody').length").await;
    assert_eq!(nobody, 0, "no tile says that nobody owns it");
    browser.picture("partitions-postgresql-away", 1400).await;
    // A page that answers 503 is an error in the browser's log, and no surprise.
    browser.complaints().await;
    browser.close().await;
    h.crash();
}

#[tokio::test]
async fn a_statement_shows_all_of_itself_at_1400_pixels() {
    let h = Harness::start().await.account("ADA", "100000000").await;
    for (reference, amount) in [
        ("VPAY25110713542114478761522000", "10000000.50"),
        ("VPAY2", "1234567.89"),
        ("VPAY25110713542114478761522003", "99000000"),
    ] {
        h.api.pay(reference, "ADA", amount).await;
    }
    h.settled().await;
    let browser = Browser::open(&h.api.url).await;
    browser.width(1400, 900, 1).await;
    browser.shows("/console/customers/ADA", "Left to pay").await;
    let cut = browser
        .script(
            "const box = document.querySelector('.scroll').getBoundingClientRect();
             return [...document.querySelectorAll('thead th, tbody td')]
                 .filter(cell => cell.getBoundingClientRect().right > box.right + 1)
                 .map(cell => cell.textContent)",
        )
        .await;
    assert_eq!(cut, serde_json::json!([]), "these cells are out of sight");
    browser.picture("statement-1400", 1400).await;
    browser.close().await;
}

#[tokio::test]
async fn an_operator_signs_in_and_out() {
    let settings = ["--operator-tokens", "ada=the-token-of-ada-01,ben=the-token-of-ben-02"];
    let h = Harness::with(&settings).await;
    let browser = Browser::open(&h.api.url).await;
    browser.shows("/console/audit", "Sign in").await;
    browser.complaints().await;
    browser.fill("#token", "the-token-of-ada-01").await;
    browser.press("Sign in").await;
    browser.reads("Nobody has changed anything by hand yet.").await;
    browser.reads("signed in as ada").await;
    browser.shows("/console", "live").await;
    browser.press("Sign out").await;
    browser.reads("Sign in").await;
    browser.shows("/console", "Your token").await;
    browser.complaints().await;
    browser.close().await;
}

/// Posts payments of many customers in waves until the figures have a past.
async fn waves(api: &Api) {
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(200));
    for wave in 0_u32.. {
        ticks.tick().await;
        // Up and down between 5 and 105 payments.
        let size = 5 + (wave % 40).abs_diff(20) * 5;
        let payments: Vec<_> = (0..size)
            .map(|n| {
                let customer = format!("GIG{:05}", 1 + (wave * 37 + n * 11) % 200);
                let amount = format!("{}.50", 1_000 + (n * 97) % 9_000);
                payment(&format!("VPAY2511{wave:05}{n:04}"), &customer, &amount)
            })
            .collect();
        let reply = api.post("/api/v1/payments/batch", &serde_json::Value::from(payments)).await;
        assert!(reply.status < 300, "{}", reply.text);
    }
}

#[tokio::test]
async fn pictures_of_a_busy_service_are_kept() {
    let stores = Stores::new().await;
    let gateway = Process::serve("gateway", &stores, &[]).await;
    gateway.api.seed(200).await;
    let settings = [("PAYSTREAM_ATTEMPTS_MAX", "2"), ("PAYSTREAM_PARK_CUSTOMER", "true")];
    let mut workers = Vec::new();
    for name in ["lagos-1", "lagos-2", "abuja-1"] {
        workers.push(ownership::worker(&stores, name, &settings).await);
    }
    ownership::until_spread(&stores, &["lagos-1", "lagos-2", "abuja-1"]).await;
    let arguments = ["topology", "resize", "--partitions", "16"];
    let resized = stores.run(&arguments).await;
    assert!(resized.status.success(), "{resized:?}");
    until("the new partitions are spread", async || {
        let owners = ownership::owners(&stores).await;
        let names: BTreeSet<&String> = owners.iter().filter(|name| !name.is_empty()).collect();
        owners.len() == 16 && !owners.contains(&String::new()) && names.len() == 3
    })
    .await;
    refuse_poison(&stores).await;
    let api = &gateway.api;
    for (reference, customer, amount) in [
        ("POISON-VPAY2511071354", "GIG00017", "12500"),
        ("VPAY25110713542114", "GIG00017", "8000"),
        ("VPAY25110713542200", "GIG09917", "45000.50"),
        ("VPAY25110713542201", "GIG99018", "7250"),
    ] {
        api.pay(reference, customer, amount).await;
    }
    let browser = Browser::open(&api.url).await;
    browser.go("/console").await;
    let pictured = async {
        eventually("the charts have a past", async || {
            let line = "return document.querySelectorAll('.chart .line')[1].getAttribute('d')";
            let line = browser.script(line).await;
            let joined = line.as_str()?.matches('L').count();
            let text = browser.text().await;
            (joined >= 10 && text.contains("dead letter.")).then_some(())
        })
        .await;
        for scheme in ["light", "dark"] {
            browser.prefer(scheme).await;
            browser.picture(&format!("overview-{scheme}"), 1280).await;
        }
        browser.picture("overview-narrow", 400).await;
        for scheme in ["dark", "light"] {
            browser.prefer(scheme).await;
            browser.shows("/console/partitions", "3 workers running").await;
            browser.picture(&format!("partitions-{scheme}"), 1280).await;
        }
        for (name, path) in [
            ("stuck", "/console/stuck"),
            ("dead-letters", "/console/dead-letters"),
            ("suspense", "/console/suspense"),
            ("parked", "/console/parked"),
            ("customers", "/console/customers"),
            ("statement", "/console/customers/GIG00001"),
            ("unknown-payment", "/console/payments?reference=VPAY-NOBODY"),
        ] {
            browser.go(path).await;
            browser.picture(name, 1280).await;
        }
    };
    tokio::select! {
        () = waves(api) => {}
        () = pictured => {}
    }
    browser.close().await;
}
