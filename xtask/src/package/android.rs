//! The AAR, packed by hand: what an Android build reads is a zip of these files.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{Packing, copy_tree, jar, jvm, native};

/// ABI, Rust's target, and how the NDK's clang is called. The first Android with every call we make is 7.0.
const ABIS: [(&str, &str, &str); 3] = [
    ("arm64-v8a", "aarch64-linux-android", "aarch64-linux-android24"),
    ("armeabi-v7a", "armv7-linux-androideabi", "armv7a-linux-androideabi24"),
    ("x86_64", "x86_64-linux-android", "x86_64-linux-android24"),
];

const MANIFEST: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<manifest xmlns:android="http://schemas.android.com/apk/res/android" package="dev.selvedge.android">
    <uses-sdk android:minSdkVersion="24" />
    <uses-permission android:name="android.permission.ACCESS_NETWORK_STATE" />
</manifest>
"#;

/// JNA finds fields, callbacks and native methods by their names.
const RULES: &str = "-keep class com.sun.jna.** { *; }
-keep class dev.selvedge.ffi.** { *; }
-dontwarn java.awt.**
";

/// What an app gets with the AAR. JNA's own AAR has its library for every ABI. The classes of `selvedge-jvm` are inside.
const POM: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>dev.selvedge</groupId>
  <artifactId>selvedge-android</artifactId>
  <version>VERSION</version>
  <packaging>aar</packaging>
  <name>Selvedge for Android</name>
  <description>One engine for an app and its backend</description>
  <licenses>
    <license><name>Apache-2.0</name></license>
    <license><name>MIT</name></license>
  </licenses>
  <dependencies>
    <dependency>
      <groupId>org.jetbrains.kotlin</groupId>
      <artifactId>kotlin-stdlib</artifactId>
      <version>KOTLIN</version>
      <scope>compile</scope>
    </dependency>
    <dependency>
      <groupId>org.jetbrains.kotlinx</groupId>
      <artifactId>kotlinx-coroutines-android</artifactId>
      <version>COROUTINES</version>
      <scope>compile</scope>
    </dependency>
    <dependency>
      <groupId>net.java.dev.jna</groupId>
      <artifactId>jna</artifactId>
      <version>JNA</version>
      <type>aar</type>
      <scope>compile</scope>
    </dependency>
  </dependencies>
</project>
"#;

pub(super) fn pack(packing: &mut Packing) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let (aar, classes) = (scratch.path().join("aar"), scratch.path().join("classes"));
    fs::create_dir_all(&aar)?;
    jvm::classes(&classes)?;
    jar(&["--create", "--no-manifest"], &aar.join("classes.jar"), &classes)?;
    fs::write(aar.join("AndroidManifest.xml"), MANIFEST)?;
    fs::write(aar.join("R.txt"), "")?;
    fs::write(aar.join("proguard.txt"), RULES)?;
    copy_tree(packing.licences.path(), &aar.join("META-INF"))?;
    match ndk() {
        Some(tools) => {
            for (abi, target, clang) in ABIS {
                let library = native::cross(target, "cdylib", |command| {
                    let (name, clang) = (target.replace('-', "_"), tools.join(format!("{clang}-clang")));
                    command.env(format!("CC_{name}"), &clang).env(format!("AR_{name}"), tools.join("llvm-ar"));
                    let name = name.to_uppercase();
                    command.env(format!("CARGO_TARGET_{name}_LINKER"), clang);
                    // Devices with 16 KB pages load nothing that is aligned to less.
                    command.env(format!("CARGO_TARGET_{name}_RUSTFLAGS"), "-Clink-arg=-Wl,-z,max-page-size=16384");
                    Ok(())
                })?;
                let folder = aar.join("jni").join(abi);
                fs::create_dir_all(&folder)?;
                fs::copy(&library, folder.join("libselvedge_ffi.so"))
                    .with_context(|| format!("cannot pack {}", library.display()))?;
            }
        }
        None => packing.gaps.push(
            "the AAR's native libraries (arm64-v8a, armeabi-v7a, x86_64): set ANDROID_NDK_HOME to an NDK (r27 or later), \
             and run `rustup target add aarch64-linux-android armv7-linux-androideabi x86_64-linux-android`"
                .into(),
        ),
    }
    let name = format!("selvedge-android-{}", jvm::VERSION);
    let pom = POM
        .replace("VERSION", jvm::VERSION)
        .replace("KOTLIN", &jvm::property("kotlin.version")?)
        .replace("COROUTINES", &jvm::property("coroutines.version")?)
        .replace("JNA", &jvm::property("jna.version")?);
    fs::write(packing.out.join(format!("{name}.pom")), pom)?;
    jar(&["--create", "--no-manifest"], &packing.out.join(format!("{name}.aar")), &aar)
}

/// The folder of the NDK's compilers.
fn ndk() -> Option<PathBuf> {
    let named = ["ANDROID_NDK_HOME", "ANDROID_NDK_ROOT"].iter().find_map(env::var_os)?;
    let host = if cfg!(target_os = "macos") { "darwin-x86_64" } else { "linux-x86_64" };
    let tools = Path::new(&named).join("toolchains/llvm/prebuilt").join(host).join("bin");
    tools.is_dir().then_some(tools)
}
