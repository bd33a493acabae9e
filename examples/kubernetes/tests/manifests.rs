//! The manifests against the Kubernetes API: its types, generated from the OpenAPI document, read every file, and a field that
//! they do not know or that has another type is an error. The cluster would take most such mistakes in silence.
#![allow(clippy::expect_used, clippy::unwrap_used, missing_docs)]

use std::{collections::BTreeSet, fs, path::Path};

use k8s_openapi::api::{
    apps::v1::Deployment,
    autoscaling::v2::HorizontalPodAutoscaler,
    core::v1::{ConfigMap, Container, PodSpec, Probe, Secret, Service},
    policy::v1::PodDisruptionBudget,
    scheduling::v1::PriorityClass,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

/// Values of a Helm chart, not an object of the API.
const ADAPTER: &str = "prometheus-adapter.yaml";

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(name: &str) -> String {
    fs::read_to_string(folder().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The YAML documents of a file.
fn documents(name: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&text(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// All manifests of the folder, with their file.
fn manifests() -> Vec<(String, Value)> {
    let files = fs::read_dir(folder()).expect("the folder of this crate");
    let names = files.map(|file| file.expect("a file").file_name().into_string().expect("UTF-8"));
    let mut names: Vec<_> = names.filter(|name| name.ends_with(".yaml") && name != ADAPTER).collect();
    names.sort();
    names.iter().flat_map(|name| documents(name).into_iter().map(|document| (name.clone(), document))).collect()
}

/// Reads a value as a type, and refuses what the type does not have.
fn strict<T: DeserializeOwned>(value: &Value) -> Result<T, String> {
    let mut unknown = Vec::new();
    let read = serde_ignored::deserialize(value, |path| unknown.push(path.to_string())).map_err(|e| e.to_string())?;
    if unknown.is_empty() { Ok(read) } else { Err(format!("unknown: {}", unknown.join(", "))) }
}

/// Reads a manifest as what it says it is.
fn check(manifest: &Value) -> Result<(), String> {
    let word = |key: &str| manifest[key].as_str().unwrap_or_default();
    match (word("apiVersion"), word("kind")) {
        ("apps/v1", "Deployment") => strict::<Deployment>(manifest).map(drop),
        ("autoscaling/v2", "HorizontalPodAutoscaler") => strict::<HorizontalPodAutoscaler>(manifest).map(drop),
        ("policy/v1", "PodDisruptionBudget") => strict::<PodDisruptionBudget>(manifest).map(drop),
        ("scheduling.k8s.io/v1", "PriorityClass") => strict::<PriorityClass>(manifest).map(drop),
        ("v1", "ConfigMap") => strict::<ConfigMap>(manifest).map(drop),
        ("v1", "Secret") => strict::<Secret>(manifest).map(drop),
        ("v1", "Service") => strict::<Service>(manifest).map(drop),
        (version, kind) => Err(format!("no check for {kind:?} of {version:?}")),
    }
}

/// The object of a kind and name.
fn object<T: DeserializeOwned>(kind: &str, name: &str) -> T {
    let found = manifests().into_iter().map(|(_, manifest)| manifest);
    let found = found.filter(|manifest| manifest["kind"] == kind && manifest["metadata"]["name"] == name);
    let [manifest] = &found.collect::<Vec<_>>()[..] else { panic!("not one {kind} {name}") };
    strict(manifest).expect(name)
}

fn deployment(name: &str) -> (Deployment, PodSpec, Container) {
    let deployment: Deployment = object("Deployment", name);
    let pod = deployment.spec.template.spec.clone().expect("a pod");
    let [container] = &pod.containers[..] else { panic!("not one container") };
    let container = container.clone();
    (deployment, pod, container)
}

#[test]
fn every_manifest_is_of_the_api() {
    let manifests = manifests();
    for (file, manifest) in &manifests {
        check(manifest).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
    assert_eq!(manifests.len(), 12, "a manifest came or went: is it in the README?");
}

/// Below these a key is the author's and not a field.
const FREE: [&str; 7] = ["labels", "annotations", "matchLabels", "requests", "limits", "data", "stringData"];
/// These take a number or a text.
const EITHER: [&str; 8] =
    ["port", "targetPort", "maxSurge", "maxUnavailable", "averageValue", "sizeLimit", "cpu", "memory"];

/// All single mistakes: a letter too many in a field's name, or a value of another type.
fn mistakes(value: &Value, free: bool, path: &str, found: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(fields) => {
            for (key, inner) in fields {
                let here = format!("{path}.{key}");
                if !free {
                    let mut misspelt = fields.clone();
                    misspelt.remove(key);
                    misspelt.insert(format!("{key}s"), inner.clone());
                    found.push((format!("{here}, misspelt"), Value::Object(misspelt)));
                }
                let mut below = Vec::new();
                // A Service selects by labels without more ado.
                let labels = key == "selector" && inner.get("matchLabels").is_none();
                mistakes(inner, labels || FREE.contains(&key.as_str()), &here, &mut below);
                for (what, inner) in below {
                    let mut fields = fields.clone();
                    fields.insert(key.clone(), inner);
                    found.push((what, Value::Object(fields)));
                }
            }
            found.push((format!("{path}, a number"), Value::from(7)));
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let mut below = Vec::new();
                mistakes(item, false, &format!("{path}[{index}]"), &mut below);
                for (what, item) in below {
                    let mut items = items.clone();
                    items[index] = item;
                    found.push((what, Value::Array(items)));
                }
            }
            found.push((format!("{path}, a text"), Value::from("one")));
        }
        scalar => {
            found.push((format!("{path}, a list"), Value::Array(vec![scalar.clone()])));
            let last = path.rsplit('.').next().unwrap_or_default();
            if !EITHER.contains(&last) {
                let other = if scalar.is_string() { Value::from(7) } else { Value::from("seven") };
                found.push((format!("{path}, another type"), other));
            }
        }
    }
}

#[test]
fn every_misspelt_field_and_every_wrong_type_is_refused() {
    let mut count = 0;
    for (file, manifest) in manifests() {
        let mut found = Vec::new();
        mistakes(&manifest, false, "", &mut found);
        for (what, mistaken) in found {
            assert_ne!(mistaken, manifest, "{file}{what}: no mistake was made");
            assert!(check(&mistaken).is_err(), "{file}{what}: it is taken");
            count += 1;
        }
    }
    assert!(count > 500, "{count} mistakes are few");
}

/// What the plugin reads: `api/config/v1` of github.com/NVIDIA/k8s-device-plugin, as far as it is about sharing.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DevicePlugin {
    version: String,
    sharing: Sharing,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Sharing {
    time_slicing: Option<Replicated>,
    mps: Option<Replicated>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Replicated {
    rename_by_default: bool,
    #[serde(default)]
    fail_requests_greater_than_one: bool,
    resources: Vec<Resource>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resource {
    name: String,
    replicas: u32,
}

fn device_plugin(name: &str) -> Sharing {
    let map: ConfigMap = object("ConfigMap", name);
    let data = map.data.expect("data");
    let config: DevicePlugin = serde_saphyr::from_str(&data["config"]).expect(name);
    assert_eq!(config.version, "v1");
    let misspelt = data["config"].replace("replicas", "replica");
    assert!(serde_saphyr::from_str::<DevicePlugin>(&misspelt).is_err());
    config.sharing
}

#[test]
fn time_slicing_and_mps_are_what_their_files_are_called() {
    for (file, name, mps) in [("time-slicing.yaml", "nvidia-time-slicing", false), ("mps.yaml", "nvidia-mps", true)] {
        assert_eq!(documents(file)[0]["metadata"]["name"], name);
        let sharing = device_plugin(name);
        assert_eq!((sharing.time_slicing.is_some(), sharing.mps.is_some()), (!mps, mps), "{file}");
        let shared = sharing.time_slicing.or(sharing.mps).expect("one of them");
        assert_eq!(shared.fail_requests_greater_than_one, !mps, "{file}");
        assert!(shared.rename_by_default, "{file}");
        assert_eq!((&*shared.resources[0].name, shared.resources[0].replicas), ("nvidia.com/gpu", 4));
    }
}

#[test]
fn batch_gives_way_and_never_takes() {
    let [realtime, batch]: [PriorityClass; 2] =
        ["selvedge-realtime", "selvedge-batch"].map(|name| object("PriorityClass", name));
    assert!(realtime.value.is_some_and(|value| value > 0) && batch.value.is_some_and(|value| value < 0));
    assert_eq!(realtime.preemption_policy.as_deref(), Some("PreemptLowerPriority"));
    assert_eq!(batch.preemption_policy.as_deref(), Some("Never"));
    for (name, class) in [("selvedge-server", "selvedge-realtime"), ("selvedge-worker", "selvedge-batch")] {
        assert_eq!(deployment(name).1.priority_class_name.as_deref(), Some(class));
    }
}

#[test]
fn what_selects_finds_and_what_is_named_is_there() {
    for name in ["selvedge-server", "selvedge-worker"] {
        let spec = deployment(name).0.spec;
        let labels = spec.template.metadata.expect("metadata").labels.expect("labels");
        let wanted = spec.selector.match_labels.expect("a selector");
        assert!(!wanted.is_empty() && wanted.iter().all(|(key, value)| labels.get(key) == Some(value)), "{name}");
        let scaler: HorizontalPodAutoscaler = object("HorizontalPodAutoscaler", name);
        let target = scaler.spec.scale_target_ref;
        assert_eq!((&*target.kind, &*target.name), ("Deployment", name));
        // Two owners of one number would reset each other.
        assert_eq!(spec.replicas, None, "{name}");
    }
    let server = deployment("selvedge-server").0.spec.selector.match_labels;
    let service: Service = object("Service", "selvedge-server");
    let service = service.spec.expect("a spec");
    assert_eq!(service.selector, server);
    let budget: PodDisruptionBudget = object("PodDisruptionBudget", "selvedge-server");
    assert_eq!(budget.spec.expect("a spec").selector.expect("a selector").match_labels, server);

    let (_, pod, container) = deployment("selvedge-server");
    let ports: BTreeSet<_> = container.ports.iter().flatten().filter_map(|port| port.name.as_deref()).collect();
    assert!(ports.contains("http"));
    let volumes: BTreeSet<_> = pod.volumes.iter().flatten().map(|volume| &volume.name).collect();
    let mounts: BTreeSet<_> = container.volume_mounts.iter().flatten().map(|mount| &mount.name).collect();
    assert_eq!(volumes, mounts);
    let config = pod.volumes.iter().flatten().find_map(|volume| volume.config_map.as_ref()).expect("a config");
    let _: ConfigMap = object("ConfigMap", &config.name);
    let from = container.env_from.iter().flatten().find_map(|from| from.secret_ref.as_ref()).expect("a secret");
    let secret: Secret = object("Secret", &from.name);
    let secret = secret.string_data.expect("values");
    assert!(secret.keys().all(|key| key.starts_with("SELVEDGE_")), "{:?}", secret.keys());
    for env in deployment("selvedge-worker").2.env.expect("an environment") {
        let key = env.value_from.and_then(|from| from.secret_key_ref).expect("a secret");
        assert!(secret.contains_key(&key.key), "{key:?}");
    }
}

/// The Rust source of a crate of this repository.
fn source(path: &str) -> String {
    fs::read_to_string(folder().join("../..").join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn probes_ask_routes_that_are_there() {
    let server = source("bindings/http/src/server/mod.rs");
    let container = deployment("selvedge-server").2;
    let path = |probe: Option<Probe>| {
        let http = probe.and_then(|probe| probe.http_get).expect("an HTTP probe");
        http.path.expect("a path")
    };
    let paths = [path(container.startup_probe), path(container.liveness_probe), path(container.readiness_probe)];
    assert_eq!(paths, ["/health", "/health", "/ready"]);
    for path in paths {
        assert!(server.contains(&format!(".route(\"{path}\"")), "{path} is no route");
    }
}

#[test]
fn a_pod_has_the_time_to_drain() {
    let (_, pod, container) = deployment("selvedge-server");
    let stop = container.lifecycle.and_then(|lifecycle| lifecycle.pre_stop).and_then(|stop| stop.sleep);
    let sleep = stop.expect("a sleep before SIGTERM").seconds;
    let config: ConfigMap = object("ConfigMap", "selvedge-config");
    let config = config.data.expect("data").remove("selvedge.toml").expect("the configuration");
    let drain = config.lines().find_map(|line| line.trim().strip_prefix("drain_seconds = "));
    let drain: i64 = drain.expect("drain_seconds").parse().expect("a number");
    let grace = pod.termination_grace_period_seconds.expect("a grace period");
    assert!(sleep > 0 && grace > sleep + drain, "{grace} s for {sleep} and {drain}");
}

#[test]
fn pods_keep_to_the_restricted_standard() {
    for name in ["selvedge-server", "selvedge-worker"] {
        let (_, pod, container) = deployment(name);
        let of_pod = pod.security_context.expect("a security context");
        assert_eq!(of_pod.run_as_non_root, Some(true));
        assert!(of_pod.run_as_user.is_some_and(|user| user > 0));
        assert_eq!(of_pod.seccomp_profile.expect("a profile").type_, "RuntimeDefault");
        let own = container.security_context.expect("a security context");
        assert_eq!((own.allow_privilege_escalation, own.read_only_root_filesystem), (Some(false), Some(true)));
        assert_eq!(own.capabilities.and_then(|capabilities| capabilities.drop), Some(vec!["ALL".to_owned()]));
        assert_eq!(pod.automount_service_account_token, Some(false));
        // SELVEDGE_SERVER_SERVICE_HOST is a setting that does not exist.
        assert_eq!(pod.enable_service_links, Some(false));
        let resources = container.resources.expect("resources");
        let (requests, limits) = (resources.requests.expect("requests"), resources.limits.expect("limits"));
        assert_eq!(requests.get("memory"), limits.get("memory"));
        assert!(requests.contains_key("cpu") && !limits.contains_key("cpu"));
    }
}

/// The part of the chart's values that is used here.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Adapter {
    #[serde(rename = "prometheus")]
    _prometheus: Value,
    rules: Rules,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    default: bool,
    custom: Vec<Rule>,
    external: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    series_query: String,
    #[serde(rename = "resources")]
    _resources: Value,
    name: Name,
    metrics_query: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Name {
    r#as: String,
}

#[test]
fn autoscalers_ask_for_metrics_that_the_adapter_makes_of_series_that_the_server_has() {
    let adapter: Adapter = serde_saphyr::from_str(&text(ADAPTER)).expect(ADAPTER);
    assert!(!adapter.rules.default);
    let metrics = source("bindings/http/src/server/metrics.rs");
    assert!(metrics.contains("Registry::with_prefix(\"selvedge\")"));
    for rule in adapter.rules.custom.iter().chain(&adapter.rules.external) {
        let series = rule.series_query.split('{').next().unwrap_or_default();
        let name = series.strip_prefix("selvedge_").expect("one of ours");
        assert!(metrics.contains(&format!("\"{name}\"")), "/metrics has no {series}");
        assert!(rule.metrics_query.contains("<<.LabelMatchers>>"));
    }
    let made = |rules: &[Rule]| rules.iter().map(|rule| rule.name.r#as.clone()).collect::<Vec<_>>();
    let asked = |name: &str| {
        let scaler: HorizontalPodAutoscaler = object("HorizontalPodAutoscaler", name);
        let [metric] = &scaler.spec.metrics.expect("metrics")[..] else { panic!("not one metric") };
        let pods = metric.pods.as_ref().map(|pods| pods.metric.name.clone());
        pods.or_else(|| metric.external.as_ref().map(|external| external.metric.name.clone())).expect("a metric")
    };
    assert_eq!([asked("selvedge-server")], made(&adapter.rules.custom)[..]);
    assert_eq!([asked("selvedge-worker")], made(&adapter.rules.external)[..]);
    // Servers share a Store and tell the same depth each.
    assert!(adapter.rules.external[0].metrics_query.contains("max(") && metrics.contains("(\"ready\", queue.ready)"));
}
