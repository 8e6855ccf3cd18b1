//! The example of deploy/kubernetes as kubectl renders it, with secrets of its own, and questions
//! about its objects. Proves nothing by itself.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use tempfile::TempDir;

use crate::{observability::files, prelude::*};

const EXAMPLE: &str = "deploy/kubernetes/overlays/example";
const WORKLOADS: [&str; 3] = ["Deployment", "StatefulSet", "Job"];
/// Where pods find their secrets.
pub const SECRETS: &str = "/etc/paystream/";
/// Stores as the page has them.
pub const REDIS: &str = "rediss://redis.example:6379/";
pub const DATABASE: &str = "postgres://db.example:5432/paystream?sslmode=verify-full";

/// What `scripts/install.sh --kubernetes` installs.
fn tool(name: &str) -> Command {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let program = target.join("kubernetes/bin").join(name);
    let advice = "run `scripts/install.sh --kubernetes`, as `make test` does";
    assert!(program.exists(), "{name} is missing: {advice} (expected at {})", program.display());
    Command::new(program)
}

/// The example, rendered with secrets of its own.
pub struct Example {
    folder: TempDir,
    pub text: String,
    pub objects: Vec<Value>,
}

impl Example {
    pub async fn render() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let copied = ["deploy/kubernetes/base", EXAMPLE].map(|from| files(from, ".yaml")).concat();
        let scripts = ["scripts/make-env.sh", "scripts/make-kubernetes-secrets.sh", ".env.example"];
        for file in copied.iter().map(String::as_str).chain(scripts) {
            let place = folder.path().join(file);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::write(place, read(file)).unwrap();
        }
        let mut example = Self { folder, text: String::new(), objects: Vec::new() };
        example.script("make-env.sh", &[]).await.is(0, "");
        example.make_secrets(REDIS, DATABASE).await.is(0, "");
        let mut kubectl = tool("kubectl");
        kubectl.arg("kustomize").arg(example.folder.path().join(EXAMPLE));
        let ended = run(kubectl).await;
        assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:?}");
        let parse = |text: &str| serde_saphyr::from_str(text).unwrap();
        example.objects = ended.stdout.split("\n---\n").map(parse).collect();
        example.text = ended.stdout;
        example
    }

    async fn script(&self, name: &str, arguments: &[&str]) -> Ended {
        let mut command = Command::new("sh");
        command.arg(self.folder.path().join("scripts").join(name)).args(arguments);
        run(command).await
    }

    pub async fn make_secrets(&self, redis: &str, database: &str) -> Ended {
        let place = self.folder.path().join(EXAMPLE).join("secrets");
        let arguments = [place.to_str().unwrap(), redis, database];
        self.script("make-kubernetes-secrets.sh", &arguments).await
    }

    /// Whether these fit the schemas of a version, which know no other fields.
    pub async fn fits(&self, version: &str, objects: &str) -> Ended {
        let file = self.folder.path().join("objects.yaml");
        fs::write(&file, objects).unwrap();
        let mut validate = tool("kubernetes-validate");
        validate.args(["--strict", "--kubernetes-version", version]).arg(file);
        run(validate).await
    }

    pub fn of_kind(&self, kind: &str) -> Vec<&Value> {
        let found: Vec<_> = self.objects.iter().filter(|one| one["kind"] == kind).collect();
        assert!(!found.is_empty(), "there is no {kind}");
        found
    }

    #[track_caller]
    pub fn find(&self, kind: &str, name: &Value) -> &Value {
        let mut found = self.of_kind(kind).into_iter();
        let found = found.find(|one| one["metadata"]["name"] == *name);
        found.unwrap_or_else(|| panic!("{kind} {name} is missing"))
    }

    pub fn workloads(&self) -> Vec<&Value> {
        WORKLOADS.iter().flat_map(|kind| self.of_kind(kind)).collect()
    }

    /// Those that serve until they are stopped.
    pub fn serving(&self) -> Vec<&Value> {
        self.workloads().into_iter().filter(|one| one["kind"] != "Job").collect()
    }

    pub fn workload(&self, component: &str) -> &Value {
        let mut found = self.workloads().into_iter();
        found.find(|one| labels(one)["app.kubernetes.io/component"] == component).unwrap()
    }

    /// The workloads whose pods have these labels.
    pub fn selected(&self, selector: &Value) -> Vec<&Value> {
        let wanted = selector.as_object().expect("labels");
        assert!(!wanted.is_empty(), "it would select everything");
        let mut found = self.workloads();
        found.retain(|one| selects(&json!({"matchLabels": wanted}), labels(one)));
        found
    }

    pub fn settings(&self) -> &Value {
        let [settings] = self.of_kind("ConfigMap")[..] else { panic!("there is one ConfigMap") };
        settings
    }

    /// The secret that a workload's pods are given: its values by their names.
    pub fn secrets(&self, workload: &Value) -> BTreeMap<String, String> {
        let [volume] = &items(&pod(workload)["volumes"])[..] else { panic!("one volume") };
        let secret = self.find("Secret", &volume["secret"]["secretName"]);
        let secrets = secret["data"].as_object().unwrap().iter();
        secrets.map(|(name, value)| (name.clone(), from_base64(value.as_str().unwrap()))).collect()
    }

    /// The environment of a workload's container.
    pub fn environment(&self, workload: &Value) -> BTreeMap<String, String> {
        let container = container(workload);
        let [from] = &items(&container["envFrom"])[..] else { panic!("{container}") };
        let settings = self.find("ConfigMap", &from["configMapRef"]["name"])["data"].as_object();
        let mut environment: BTreeMap<String, String> = settings
            .unwrap()
            .iter()
            .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
            .collect();
        for variable in items(&container["env"]) {
            let source = &variable["valueFrom"]["fieldRef"]["fieldPath"];
            let value = if source == "metadata.name" {
                // The name of a pod of a StatefulSet.
                format!("{}-0", workload["metadata"]["name"].as_str().unwrap())
            } else {
                variable["value"].as_str().unwrap().to_owned()
            };
            let name = variable["name"].as_str().unwrap().to_owned();
            environment.insert(name, value);
        }
        environment
    }

    /// What a workload's container runs, on these stores as this user and on any port.
    pub fn command(
        &self,
        workload: &Value,
        stores: &Stores,
        user: &str,
        place: &TempDir,
    ) -> Command {
        let mut command = paystream();
        command.args(items(&container(workload)["args"]).iter().map(|one| one.as_str().unwrap()));
        for (name, text) in self.secrets(workload) {
            let text = match name.as_str() {
                "redis-url" => as_user(&stores.redis_url, user),
                "database-url" => as_user(&stores.database_url, user),
                _ => text,
            };
            fs::write(place.path().join(name), text).unwrap();
        }
        let folder = format!("{}/", place.path().display());
        for (name, value) in self.environment(workload) {
            let (host, port) = value.rsplit_once(':').unwrap_or_default();
            let value = match port.parse::<u16>() {
                Ok(_) if name.ends_with("_BIND") => format!("{host}:0"),
                _ => value.replace(SECRETS, &folder),
            };
            command.env(name, value);
        }
        command.env("PAYSTREAM_KEY_PREFIX", &stores.key_prefix);
        command
    }
}

pub fn items(list: &Value) -> Vec<&Value> {
    list.as_array().into_iter().flatten().collect()
}

pub fn pod(workload: &Value) -> &Value {
    &workload["spec"]["template"]["spec"]
}

/// The labels of a workload's pods.
pub fn labels(workload: &Value) -> &Value {
    &workload["spec"]["template"]["metadata"]["labels"]
}

pub fn container(workload: &Value) -> &Value {
    let [container] = &items(&pod(workload)["containers"])[..] else { panic!("{workload}") };
    container
}

/// Whether a selector means pods with these labels.
pub fn selects(selector: &Value, labels: &Value) -> bool {
    let equal = selector["matchLabels"].as_object().into_iter().flatten();
    let listed = items(&selector["matchExpressions"]).into_iter().all(|one| {
        assert_eq!(one["operator"], "In");
        items(&one["values"]).contains(&&labels[one["key"].as_str().unwrap()])
    });
    listed && equal.into_iter().all(|(key, value)| labels[key] == *value)
}

fn from_base64(text: &str) -> String {
    let text: String = text.split_whitespace().collect();
    String::from_utf8(BASE64.decode(text).unwrap()).unwrap()
}

/// The path that a probe asks.
pub fn path<'a>(workload: &'a Value, probe: &str) -> &'a str {
    container(workload)[probe]["httpGet"]["path"].as_str().unwrap()
}
