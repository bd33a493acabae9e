//! Arrows point at core: `bindings → plugins → core`.

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Outcome, Sources};
use crate::place;

/// Where a crate of the workspace lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Core,
    Plugin,
    Binding,
    /// What any author of a plugin may use.
    Testkit,
    /// Tests that span plugins, examples and chores: nothing may depend on them.
    Outside,
}

impl Place {
    fn of(folder: &str) -> Self {
        match folder.split_once('/').unwrap_or((folder, "")) {
            ("core", _) => Self::Core,
            ("plugins", _) => Self::Plugin,
            ("bindings", _) => Self::Binding,
            ("tests", "testkit") => Self::Testkit,
            _ => Self::Outside,
        }
    }

    /// Whether an arrow may go from here to there; `dev` is a dependency of its tests.
    fn may_use(self, other: Self, dev: bool) -> bool {
        match (self, other) {
            (_, Self::Outside) => false,
            (Self::Outside, _) | (_, Self::Core) => true,
            (Self::Core | Self::Plugin, Self::Testkit) => dev,
            (Self::Binding, Self::Plugin | Self::Binding) => true,
            (Self::Binding, Self::Testkit) => dev,
            _ => false,
        }
    }
}

/// One dependency between two crates of the workspace.
#[derive(Debug)]
struct Arrow {
    from: (String, Place),
    to: (String, Place),
    dev: bool,
}

pub(super) fn check(_: &Sources) -> Result<Outcome> {
    let arrows = arrows(&place::metadata()?)?;
    Ok(Outcome::Checked(arrows.iter().filter_map(wrong).collect()))
}

fn wrong(arrow: &Arrow) -> Option<String> {
    let Arrow { from: (from, source), to: (to, target), dev } = arrow;
    let kind = if *dev { "tests of a" } else { "a" };
    let [source_name, target_name] = [source, target].map(|place| format!("{place:?}").to_lowercase());
    (!source.may_use(*target, *dev))
        .then(|| format!("{from} depends on {to}: {kind} {source_name} may not use a {target_name} crate"))
}

fn arrows(metadata: &Value) -> Result<Vec<Arrow>> {
    let root = metadata["workspace_root"].as_str().context("cargo metadata names no root")?;
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    let place = |manifest: &str| {
        let folder = manifest.strip_prefix(root).unwrap_or(manifest).trim_end_matches("Cargo.toml");
        Place::of(folder.trim_matches(['/', '\\']))
    };
    let mut arrows = Vec::new();
    for package in packages {
        let text = |value: &Value| value.as_str().map(str::to_owned).context("cargo metadata lacks a name");
        let from = (text(&package["name"])?, place(package["manifest_path"].as_str().unwrap_or_default()));
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            // What has no path is somebody else's.
            let Some(path) = dependency["path"].as_str() else { continue };
            let to = (text(&dependency["name"])?, place(path));
            arrows.push(Arrow { from: from.clone(), to, dev: dependency["kind"] == "dev" });
        }
    }
    Ok(arrows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problems(from: &str, to: &str, kind: Value) -> Vec<String> {
        let metadata = json!({ "workspace_root": "/w", "packages": [{
            "name": from.replace('/', "-"), "manifest_path": format!("/w/{from}/Cargo.toml"),
            "dependencies": [
                { "name": to.replace('/', "-"), "path": format!("/w/{to}"), "kind": kind },
                { "name": "serde", "path": null, "kind": null },
            ],
        }]});
        arrows(&metadata).unwrap().iter().filter_map(wrong).collect()
    }

    #[test]
    fn arrows_that_point_at_core_pass_and_others_are_named() {
        let (normal, dev) = (Value::Null, json!("dev"));
        for (from, to, kind) in [
            ("plugins/sqlite", "core", &normal),
            ("plugins/sqlite", "tests/testkit", &dev),
            ("bindings/http", "plugins/sqlite", &dev),
            ("bindings/cli", "bindings/rust", &normal),
            ("bindings/rust", "plugins/llama", &normal),
            ("tests/conformance", "plugins/llama", &normal),
            ("examples/storefront", "bindings/rust", &normal),
        ] {
            assert_eq!(problems(from, to, kind.clone()), Vec::<String>::new(), "{from} {to}");
        }
        for (from, to, kind) in [
            ("core", "plugins/sqlite", &dev),
            ("plugins/llama", "plugins/priority", &normal),
            ("plugins/llama", "plugins/priority", &dev),
            ("plugins/llama", "bindings/rust", &normal),
            ("plugins/sqlite", "tests/testkit", &normal),
            ("tests/testkit", "plugins/sqlite", &normal),
            ("bindings/http", "examples/storefront", &dev),
            ("examples/storefront", "xtask", &normal),
        ] {
            assert_eq!(problems(from, to, kind.clone()).len(), 1, "{from} {to}");
        }
    }
}
