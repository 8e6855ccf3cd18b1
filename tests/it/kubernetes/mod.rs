//! Proves that deploy/kubernetes is what Kubernetes and paystream take: kubectl renders the example,
//! every object fits Kubernetes's own schemas, names that objects use exist, pods are confined, the
//! real binary runs with their settings and answers their probes, workers are never restarted for an
//! outage of PostgreSQL, and routes, the metric and the secrets are the program's.
//!
//! There is no cluster: what its controllers make of the objects is not tried.

use std::time::Instant;

use promql_parser::parser::{Expr, token::T_MAX};

use crate::{
    nginx::Front,
    observability::{catalogued, parsed},
    prelude::*,
};

mod example;

use example::{DATABASE, Example, REDIS, SECRETS, container, items, labels, path, pod, selects};

/// The oldest that docs/kubernetes.md promises, and the newest that the schemas know.
const VERSIONS: [&str; 2] = ["1.30", "1.37"];
const PROBES: [&str; 3] = ["startupProbe", "readinessProbe", "livenessProbe"];
/// A start gives up after this long without a store, and says why.
const START_PATIENCE_SECONDS: i64 = 30;

#[tokio::test]
async fn every_object_is_one_that_kubernetes_knows() {
    let example = Example::render().await;
    assert!(example.objects.len() > 20, "{}", example.text);
    for version in VERSIONS {
        example.fits(version, &example.text).await.is(0, "");
        // Unknown fields are refused, wherever they are.
        for (known, unknown) in [
            ("livenessProbe:", "livelinessProbe:"),
            ("maxUnavailable: 1\n", "maxUnavailible: 1\n"),
            ("averageUtilization:", "averageUse:"),
        ] {
            assert!(example.text.contains(known), "{known}");
            let wrong = example.fits(version, &example.text.replace(known, unknown)).await;
            assert_ne!(wrong.code(), Some(0), "{unknown}");
        }
    }
}

#[tokio::test]
async fn names_that_objects_use_exist() {
    let example = Example::render().await;
    let one_of = |selector: &Value| match example.selected(selector)[..] {
        [workload] => workload,
        ref many => panic!("{} workloads have {selector}", many.len()),
    };
    for workload in example.serving() {
        assert_eq!(one_of(&workload["spec"]["selector"]["matchLabels"]), workload);
        assert_eq!(one_of(&workload["metadata"]["labels"]), workload);
        let mut budgets = example.of_kind("PodDisruptionBudget");
        budgets.retain(|one| one_of(&one["spec"]["selector"]["matchLabels"]) == workload);
        let [budget] = budgets[..] else { panic!("{} budgets: {workload}", budgets.len()) };
        assert_eq!(budget["spec"]["maxUnavailable"], 1);
        for constraint in items(&pod(workload)["topologySpreadConstraints"]) {
            assert_eq!(one_of(&constraint["labelSelector"]["matchLabels"]), workload);
        }
    }
    let ports = |workload| items(&container(workload)["ports"]);
    for service in example.of_kind("Service") {
        let workload = one_of(&service["spec"]["selector"]);
        for port in items(&service["spec"]["ports"]) {
            assert!(ports(workload).iter().any(|one| one["name"] == port["targetPort"]), "{port}");
        }
    }
    let worker = example.workload("worker");
    example.find("Service", &worker["spec"]["serviceName"]);
    for scaler in example.of_kind("HorizontalPodAutoscaler") {
        let target = &scaler["spec"]["scaleTargetRef"];
        let workload = example.find(target["kind"].as_str().unwrap(), &target["name"]);
        // Else each `kubectl apply` would undo what the autoscaler did.
        assert_eq!(workload["spec"]["replicas"], Value::Null);
        assert!(scaler["spec"]["minReplicas"].as_u64() >= Some(2), "{scaler}");
    }
    let ingress = example.find("Ingress", &json!("paystream"));
    for rule in items(&ingress["spec"]["rules"]) {
        for route in items(&rule["http"]["paths"]) {
            let backend = &route["backend"]["service"];
            let service = example.find("Service", &backend["name"]);
            assert_eq!(one_of(&service["spec"]["selector"]), example.workload("gateway"));
            let ports = items(&service["spec"]["ports"]);
            assert!(ports.iter().any(|port| port["name"] == backend["port"]["name"]), "{backend}");
        }
    }
}

#[tokio::test]
async fn what_is_applied_first_is_all_that_the_migration_needs() {
    let example = Example::render().await;
    let mut first = example.objects.clone();
    first.retain(|one| one["metadata"]["labels"]["paystream/apply"] == "first");
    let has = |kind: &str, name: &Value| {
        first.iter().any(|one| one["kind"] == kind && one["metadata"]["name"] == *name)
    };
    let migrate = example.workload("migrate");
    assert!(has("Job", &migrate["metadata"]["name"]));
    assert!(has("Namespace", &migrate["metadata"]["namespace"]));
    assert!(has("ConfigMap", &container(migrate)["envFrom"][0]["configMapRef"]["name"]));
    assert!(has("Secret", &pod(migrate)["volumes"][0]["secret"]["secretName"]));
    for policy in example.of_kind("NetworkPolicy") {
        let applies = selects(&policy["spec"]["podSelector"], labels(migrate));
        assert!(!applies || has("NetworkPolicy", &policy["metadata"]["name"]), "{policy}");
    }
    // And nothing that serves.
    let serves = first.iter().find(|one| ["Deployment", "StatefulSet"].contains(&kind(one)));
    assert_eq!(serves, None);
}

fn kind(object: &Value) -> &str {
    object["kind"].as_str().unwrap()
}

#[tokio::test]
async fn only_what_a_policy_names_reaches_a_pod_or_is_reached_by_one() {
    let example = Example::render().await;
    // Where the policies of a component lead: the peers and the ports of each rule.
    let allowed = |component: &str, way: &str| -> BTreeSet<String> {
        let labels = labels(example.workload(component));
        let mut policies = example.of_kind("NetworkPolicy");
        policies.retain(|one| selects(&one["spec"]["podSelector"], labels));
        let types = policies.iter().flat_map(|one| items(&one["spec"]["policyTypes"]));
        assert!(types.filter(|one| one.as_str() == Some(way)).count() > 0, "{component} is open");
        let rules = policies.iter().flat_map(|one| items(&one["spec"][way.to_lowercase()]));
        let mut told = BTreeSet::new();
        for rule in rules {
            let peers = items(&rule[if way == "Ingress" { "from" } else { "to" }]);
            let ports = items(&rule["ports"]);
            assert!(!peers.is_empty() && !ports.is_empty(), "{rule} leads anywhere");
            for peer in peers {
                let place = peer.pointer("/namespaceSelector/matchLabels").or(peer.get("ipBlock"));
                told.extend(
                    ports.iter().map(|port| format!("{} {}", place.unwrap(), port["port"])),
                );
            }
        }
        told
    };
    let from = |label: &str| BTreeSet::from([format!(r#"{{"{label}":"true"}} "http""#)]);
    assert_eq!(allowed("gateway", "Ingress"), from("paystream/reaches-gateways"));
    assert_eq!(allowed("operations", "Ingress"), from("paystream/reaches-operations"));
    assert_eq!(allowed("worker", "Ingress"), BTreeSet::new());
    assert_eq!(allowed("migrate", "Ingress"), BTreeSet::new());
    let stores = [
        r#"{"kubernetes.io/metadata.name":"kube-system"} 53"#,
        r#"{"cidr":"10.20.0.0/24"} 6379"#,
        r#"{"cidr":"10.20.0.0/24"} 5432"#,
    ];
    let stores = BTreeSet::from(stores.map(str::to_owned));
    assert_eq!(allowed("migrate", "Egress"), stores);
    let collector = r#"{"paystream/collects-telemetry":"true"} 4317"#;
    let serving: BTreeSet<String> = stores.into_iter().chain([collector.to_owned()]).collect();
    for component in ["gateway", "operations", "worker"] {
        assert_eq!(allowed(component, "Egress"), serving);
        let collector = &example.settings()["data"]["OTEL_EXPORTER_OTLP_ENDPOINT"];
        assert!(collector.as_str().unwrap().ends_with(":4317"));
    }
}

#[tokio::test]
async fn the_page_names_what_is_deployed() {
    let (example, page) = (Example::render().await, read("docs/kubernetes.md"));
    let labels = page.match_indices("paystream/").map(|(at, _)| &page[at..]);
    let labels = labels
        .filter_map(|rest| rest.split_once('='))
        .filter(|(label, _)| label.chars().all(|c| c.is_ascii_lowercase() || c == '-' || c == '/'));
    let named: BTreeSet<&str> = labels.map(|(label, _)| label).collect();
    assert_eq!(named.len(), 4, "{named:?}");
    for label in named {
        assert!(example.text.contains(&format!(" {label}: ")), "{label} is in no manifest");
    }
    let mut seen = 0;
    for word in page.split(|c: char| c.is_whitespace() || c == '`') {
        let Some((kind, name)) = word.split_once('/') else { continue };
        let kind = match kind {
            "deploy" | "deployment" => "Deployment",
            "statefulset" => "StatefulSet",
            "job" => "Job",
            "service" => "Service",
            _ => continue,
        };
        if !name.starts_with("kubernetes/") {
            example.find(kind, &json!(name));
            seen += 1;
        }
    }
    assert!(seen > 6, "{seen}");
    assert!(page.contains("1.30") && page.contains(REDIS) && page.contains(DATABASE));
}

#[tokio::test]
async fn pods_are_confined_and_stop_in_their_own_time() {
    let example = Example::render().await;
    let settings = &example.settings()["data"];
    let grace = settings["PAYSTREAM_SHUTDOWN_GRACE"].as_str().unwrap().strip_suffix('s');
    let grace: i64 = grace.unwrap().parse().unwrap();
    let image = format!("registry.example/paystream:{}", env!("CARGO_PKG_VERSION"));
    assert!(read("Dockerfile").contains("\nUSER 10001:10001\n"));
    for workload in example.workloads() {
        let (pod, container) = (pod(workload), container(workload));
        has(
            pod,
            json!({
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "securityContext": {
                    "runAsNonRoot": true, "runAsUser": 10001, "runAsGroup": 10001,
                    "fsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"},
                },
            }),
        );
        has(
            &container["securityContext"],
            json!({
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            }),
        );
        assert_eq!(container["image"], image, "the release that Cargo.toml has");
        // The secrets alone, and to read.
        assert_eq!(items(&container["volumeMounts"]).len(), 1);
        has(&container["volumeMounts"][0], json!({"name": "secrets", "readOnly": true}));
        assert_eq!(pod["volumes"][0]["secret"]["defaultMode"], 0o440);
        for resource in ["/requests/cpu", "/requests/memory", "/limits/memory"] {
            assert!(container["resources"].pointer(resource).is_some(), "{resource}");
        }
    }
    for workload in example.serving() {
        let (pod, container) = (pod(workload), container(workload));
        let pause = &container["lifecycle"]["preStop"]["sleep"]["seconds"];
        let has_clients = workload != example.workload("worker");
        assert_eq!(pause.as_i64().is_some(), has_clients, "load balancers need a moment");
        let stop = grace + pause.as_i64().unwrap_or_default();
        assert!(pod["terminationGracePeriodSeconds"].as_i64().unwrap() > stop, "{pod}");
        assert!(workload["spec"]["minReadySeconds"].as_i64().unwrap() > 0);
        if workload["kind"] == "Deployment" {
            let rollout = &workload["spec"]["strategy"]["rollingUpdate"];
            assert_eq!(rollout, &json!({"maxUnavailable": 0, "maxSurge": 1}));
        }
        let startup = &container["startupProbe"];
        let [period, failures] = ["periodSeconds", "failureThreshold"].map(|one| &startup[one]);
        let patience = period.as_i64().unwrap() * failures.as_i64().unwrap();
        assert!(patience > 2 * START_PATIENCE_SECONDS, "both stores are waited for: {startup}");
        for probe in PROBES {
            // A health endpoint takes up to 5 s, as `paystream probe` has it.
            assert!(container[probe]["timeoutSeconds"].as_i64() > Some(5), "{probe}");
        }
    }
}

#[tokio::test]
async fn every_setting_that_pods_have_is_one() {
    let example = Example::render().await;
    let page = read("docs/settings.md");
    for workload in example.workloads() {
        let secrets = example.secrets(workload);
        let mut unused: BTreeSet<&String> = secrets.keys().collect();
        for (name, value) in example.environment(workload) {
            let known = page.contains(&format!("| `{name}` | "))
                || name.starts_with("OTEL_") && page.contains(&format!("`{name}`"));
            assert!(known, "{name} is no setting");
            if let Some(secret) = value.strip_prefix(SECRETS) {
                assert!(name.ends_with("_FILE") && secrets.contains_key(secret), "{name}={value}");
                unused.remove(&secret.to_owned());
            }
        }
        assert!(unused.is_empty(), "{unused:?} is given to a pod that does not read it");
        for port in items(&container(workload)["ports"]) {
            let port = port["containerPort"].as_u64().unwrap();
            let environment = example.environment(workload);
            let mut binds = environment.iter().filter(|(name, _)| name.ends_with("_BIND"));
            assert!(binds.any(|(_, bind)| *bind == format!("0.0.0.0:{port}")), "{environment:?}");
        }
    }
    assert_eq!(
        example.environment(example.workload("worker"))["PAYSTREAM_WORKER_ID"],
        "paystream-worker-0"
    );
}

#[tokio::test]
async fn each_process_runs_as_its_pod_says_and_answers_its_probes() {
    let (example, stores) = (Example::render().await, Stores::new().await);
    let place = tempfile::tempdir().unwrap();
    let migrate = example.command(example.workload("migrate"), &stores, OWNER, &place);
    run(migrate).await.is(0, "");
    for (component, user) in [
        ("gateway", "paystream_gateway"),
        ("operations", "paystream_operations"),
        ("worker", "paystream_worker"),
    ] {
        let (workload, place) = (example.workload(component), tempfile::tempdir().unwrap());
        let process = Process::start(example.command(workload, &stores, user, &place)).await;
        for probe in PROBES {
            process.api.get(path(workload, probe)).await.is(200);
            let port = &container(workload)[probe]["httpGet"]["port"];
            assert_eq!(port, &container(workload)["ports"][0]["name"]);
        }
        assert_eq!(path(workload, "livenessProbe"), "/livez", "it asks no store");
        let secrets = example.secrets(workload);
        // The others are not served, or need the token of this pod.
        let (token, wanted) = match component {
            "gateway" => (&*secrets["api-token"], [200, 404]),
            "operations" => (secrets["operator-tokens"].split_once('=').unwrap().1, [404, 200]),
            _ => ("none", [404, 404]),
        };
        let known = process.api.with_token(token);
        for (path, wanted) in ["/api/v1/customers", "/api/v1/admin/stats"].iter().zip(wanted) {
            let stranger = process.api.get(path).await.status;
            assert_ne!(stranger, 200, "{component} {path}");
            assert_eq!(known.get(path).await.status, wanted, "{component} {path}");
        }
        process.stop().await;
    }
}

#[tokio::test]
async fn no_worker_is_restarted_because_postgresql_is_away() {
    const STALL_LIMIT: Duration = Duration::from_secs(5);
    let (example, mut stores) = (Example::render().await, Stores::new().await);
    let direct = stores.database_url.clone();
    let gateway = Process::serve("gateway", &stores, &[]).await.account("ADA", "1000").await;
    let proxy = Proxy::before(&direct).await;
    stores.database_url.clone_from(&proxy.url);
    let (workload, place) = (example.workload("worker"), tempfile::tempdir().unwrap());
    let mut command = example.command(workload, &stores, "paystream_worker", &place);
    command.env("PAYSTREAM_STALL_LIMIT", "5s").env("PAYSTREAM_BATCH_DEADLINE", "500ms");
    let mut worker = Process::start(command).await;
    gateway.api.pay("before", "ADA", "1").await;
    for (round, way) in [Way::Cut, Way::Dumb].into_iter().enumerate() {
        proxy.set(way);
        // It waits, and would be called stalled if it had only itself to blame.
        gateway.api.post_payment(&payment(&format!("away-{round}"), "ADA", "1")).await.is(202);
        until("the worker is not ready", async || {
            worker.api.get(path(workload, "readinessProbe")).await.status == 503
        })
        .await;
        let start = Instant::now();
        until("the stall limit is over", async || {
            worker.api.get(path(workload, "livenessProbe")).await.is(200);
            start.elapsed() > STALL_LIMIT + Duration::from_secs(1)
        })
        .await;
        proxy.set(Way::Open);
        gateway.api.until_settled().await;
        worker.api.until_ready().await;
    }
    worker.must_live();
    assert_eq!(gateway.api.balance("ADA").await["total_paid"], "3.00");
}

#[tokio::test]
async fn the_public_routes_are_those_of_nginx() {
    let example = Example::render().await;
    let ingress = example.find("Ingress", &json!("paystream"));
    let routes = items(&ingress["spec"]["rules"][0]["http"]["paths"]);
    // As Kubernetes matches: the whole, or element by element.
    let passes = |path: &str| {
        routes.iter().any(|route| {
            let rest = path.strip_prefix(route["path"].as_str().unwrap());
            match route["pathType"].as_str().unwrap() {
                "Exact" => rest == Some(""),
                "Prefix" => rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
                other => panic!("{other}"),
            }
        })
    };
    // Nobody is behind it: what is asked is how nginx calls each path.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let front = Front::before(&nobody.to_string()).await;
    let described = paystream::http::description().paths.paths;
    let described = described.keys().map(|path| path.replace(['{', '}'], ""));
    let others = "/ /docs /docs/ /docs/index.css /openapi.json /console /console/sign-in \
                  /console/live /metrics /livez/x /api/v1/health/x /api/v1/customersx /api/v1 /docsx";
    let mut passed = 0;
    for path in described.chain(others.split_whitespace().map(str::to_owned)) {
        let route = front.route(&path).await;
        assert_eq!(passes(&path), route != "other", "{path} is {route}");
        passed += usize::from(passes(&path));
    }
    assert!(passed > 10, "{passed}");
    assert!(!passes("/api/v1/admin/stats") && !passes("/console"));
}

#[tokio::test]
async fn workers_are_scaled_by_a_metric_that_is_exported() {
    let example = Example::render().await;
    let scaler = example.find("HorizontalPodAutoscaler", &json!("paystream-worker"));
    let [metric] = items(&scaler["spec"]["metrics"])[..] else { panic!("{scaler}") };
    let name = metric["external"]["metric"]["name"].as_str().unwrap();
    assert_eq!(metric["external"]["target"]["type"], "AverageValue");
    let described = catalogued(name).expect("it is in the catalogue").description;
    assert_eq!(described, "Entries that no worker has taken yet.");
    // Whoever asks for it is told the highest of all processes, for each has all of it.
    let adapter: Value =
        serde_saphyr::from_str(&read("deploy/kubernetes/prometheus-adapter.yaml")).unwrap();
    let [rule] = items(&adapter["externalRules"])[..] else { panic!("{adapter}") };
    assert_eq!((&rule["seriesQuery"], &rule["name"]["as"]), (&json!(name), &json!(name)));
    assert_eq!(rule["resources"], json!({"namespaced": false}));
    let query = rule["metricsQuery"].as_str().unwrap();
    let query = query.replace("<<.Series>>", name).replace("<<.LabelMatchers>>", "");
    let Expr::Aggregate(highest) = parsed(&query) else { panic!("{query}") };
    assert!(highest.op.id() == T_MAX && highest.modifier.is_none(), "{query}");
}

#[tokio::test]
async fn each_role_has_secrets_of_its_own() {
    let example = Example::render().await;
    let mut seen = BTreeMap::new();
    for (component, redis, database) in [
        ("migrate", "operations", "paystream_migrate"),
        ("gateway", "gateway", "paystream_gateway"),
        ("worker", "worker", "paystream_worker"),
        ("operations", "operations", "paystream_operations"),
    ] {
        let secrets = example.secrets(example.workload(component));
        for (name, user, wanted) in
            [("redis-url", redis, REDIS), ("database-url", database, DATABASE)]
        {
            let (scheme, rest) = secrets[name].split_once("://").unwrap();
            let (login, place) = rest.split_once('@').unwrap();
            assert_eq!(format!("{scheme}://{place}"), wanted);
            let (named, password) = login.split_once(':').unwrap();
            assert_eq!((named, password.len()), (user, 64), "{component}");
            // A password is of one user of each store; the roles of both stores share theirs.
            let role = named.trim_start_matches("paystream_").to_owned();
            assert_eq!(seen.entry(password.to_owned()).or_insert(role.clone()), &role);
        }
    }
    assert_eq!(seen.len(), 4, "four roles, four passwords");
    // Nothing is made twice, or of less than is needed.
    let again = example.make_secrets(REDIS, DATABASE).await;
    again.refused(&["is there already; remove it first"]);
    for (redis, database) in [("redis://me@redis/", DATABASE), (REDIS, "db.example")] {
        let refused = example.make_secrets(redis, database).await;
        refused.refused(&["make-kubernetes-secrets: "]);
    }
}
