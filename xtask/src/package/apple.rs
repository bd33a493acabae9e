//! The XCFramework and the Swift package. Where there is no Xcode, static libraries are compiled with zig: they need no linker.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::{Packing, copy_tree, jar, native};
use crate::{
    place,
    setup::{python, system::Missing},
};

/// Rust's target, zig's, the folder in the XCFramework, its platform and variant, and Mach-O's number of it.
pub(super) const SLICES: [Slice; 3] = [
    Slice {
        target: "aarch64-apple-ios",
        zig: "aarch64-ios.15.0",
        folder: "ios-arm64",
        platform: "ios",
        variant: None,
        number: 2,
    },
    Slice {
        target: "aarch64-apple-ios-sim",
        zig: "aarch64-ios.15.0-simulator",
        folder: "ios-arm64-simulator",
        platform: "ios",
        variant: Some("simulator"),
        number: 7,
    },
    Slice {
        target: "aarch64-apple-darwin",
        zig: "aarch64-macos.12.0",
        folder: "macos-arm64",
        platform: "macos",
        variant: None,
        number: 1,
    },
];

pub(super) struct Slice {
    target: &'static str,
    zig: &'static str,
    pub(super) folder: &'static str,
    platform: &'static str,
    variant: Option<&'static str>,
    pub(super) number: u32,
}

pub(super) const FRAMEWORK: &str = "Selvedge.xcframework";
pub(super) const LIBRARY: &str = "libselvedge_ffi.a";
const ZIG: &str = "ziglang==0.17.0";

/// zig as the C compiler that cc-rs wants: without the flags that mean Apple's own tools.
const COMPILER: &str = r#"#!/bin/sh
for word do
    shift
    if [ -n "$skip" ]; then skip=; continue; fi
    case $word in
        --target=* | -mios* | -miphone* | -mmacos* | -m*-version-min=*) ;;
        -arch | -isysroot | -target) skip=1 ;;
        *) set -- "$@" "$word" ;;
    esac
done
exec "PYTHON" -m ziglang cc -target TARGET -isystem "HEADERS" "$@"
"#;

pub(super) fn pack(packing: &mut Packing, url: Option<&str>) -> Result<()> {
    let framework = packing.out.join(FRAMEWORK);
    let headers = place::root().join("bindings/swift/Sources/selvedge_ffiFFI");
    for slice in &SLICES {
        match build(slice) {
            Ok(library) => {
                let folder = framework.join(slice.folder);
                fs::create_dir_all(&folder)?;
                fs::copy(&library, folder.join(LIBRARY))?;
                copy_tree(&headers, &folder.join("Headers"))?;
            }
            Err(error) if error.is::<Missing>() => packing.gaps.push(format!("the slice {}: {error:#}", slice.folder)),
            Err(error) => return Err(error),
        }
    }
    let mut binary = None;
    if framework.exists() {
        fs::write(framework.join("Info.plist"), plist(&framework))?;
        copy_tree(packing.licences.path(), &framework)?;
        let staged = tempfile::tempdir()?;
        copy_tree(&framework, &staged.path().join(FRAMEWORK))?;
        let zip = packing.out.join(format!("{FRAMEWORK}.zip"));
        jar(&["--create", "--no-manifest"], &zip, staged.path())?;
        let digest = Sha256::digest(fs::read(&zip)?);
        let checksum: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(packing.out.join(format!("{FRAMEWORK}.zip.sha256")), format!("{checksum}  {FRAMEWORK}.zip\n"))?;
        binary = Some(match url {
            Some(url) => format!("url: \"{url}\",\n            checksum: \"{checksum}\""),
            None => format!("path: \"{FRAMEWORK}\""),
        });
    }
    swift(packing, binary.as_deref())
}

/// The package: on Apple's systems with the XCFramework, elsewhere with a library of the system.
fn swift(packing: &Packing, binary: Option<&str>) -> Result<()> {
    let (from, to) = (place::root().join("bindings/swift"), packing.out.join("Selvedge"));
    for folder in ["SelvedgeGenerated", "selvedge_ffiFFI", "Selvedge"] {
        copy_tree(&from.join("Sources").join(folder), &to.join("Sources").join(folder))?;
    }
    copy_tree(packing.licences.path(), &to)?;
    let manifest = fs::read_to_string(from.join("Package.swift"))?;
    let kept: String = manifest
        .lines()
        .filter(|line| !line.contains(".executableTarget(") && !line.contains(".testTarget("))
        .map(|line| format!("{line}\n"))
        .collect();
    let system = ".systemLibrary(name: \"selvedge_ffiFFI\"),";
    let linked = "linkerSettings: [.linkedLibrary(\"selvedge_ffi\")]";
    let mut manifest =
        kept.replace(linked, "linkerSettings: [.linkedLibrary(\"selvedge_ffi\", .when(platforms: [.linux]))]");
    if let Some(binary) = binary {
        manifest = manifest.replace(system, "library,").replace(
            "let package = Package(",
            &format!(
                "#if os(Linux)\n    let library = Target.systemLibrary(name: \"selvedge_ffiFFI\")\n#else\n    \
                 let library = Target.binaryTarget(\n            name: \"selvedge_ffiFFI\",\n            {binary}\n        )\n\
                 #endif\n\nlet package = Package("
            ),
        );
        let framework = packing.out.join(FRAMEWORK);
        copy_tree(&framework, &to.join(FRAMEWORK))?;
    }
    fs::write(to.join("Package.swift"), manifest)?;
    Ok(())
}

fn build(slice: &Slice) -> Result<PathBuf> {
    let scratch = tempfile::tempdir()?;
    native::cross(slice.target, "staticlib", |command| {
        // As Package.swift has them. Without them rustc marks objects in the old way, which names no simulator.
        command.env("IPHONEOS_DEPLOYMENT_TARGET", "15.0").env("MACOSX_DEPLOYMENT_TARGET", "12.0");
        if cfg!(target_os = "macos") { Ok(()) } else { zig(slice, scratch.path(), command) }
    })
}

/// Makes zig the C compiler of a target.
fn zig(slice: &Slice, scratch: &Path, command: &mut Command) -> Result<()> {
    let python = python::environment("zig", &[ZIG])?.join("python3");
    let mut asked = Command::new(&python);
    let asked = asked.args(["-c", "import ziglang, os; print(os.path.dirname(ziglang.__file__))"]).output()?;
    let home = PathBuf::from(String::from_utf8(asked.stdout).context("zig's folder")?.trim());
    let headers = home.join("lib/libc/include/any-darwin-any");
    let script = COMPILER
        .replace("PYTHON", &python.display().to_string())
        .replace("TARGET", slice.zig)
        .replace("HEADERS", &headers.display().to_string());
    let (compiler, archiver) = (scratch.join("cc"), scratch.join("ar"));
    for (path, text) in
        [(&compiler, script), (&archiver, format!("#!/bin/sh\nexec \"{}\" -m ziglang ar \"$@\"\n", python.display()))]
    {
        fs::write(path, text)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    let name = slice.target.replace('-', "_");
    command.env(format!("CC_{name}"), compiler).env(format!("AR_{name}"), archiver).env("SDKROOT", scratch);
    Ok(())
}

/// What Xcode reads to choose a slice.
fn plist(framework: &Path) -> String {
    let mut libraries = String::new();
    for slice in SLICES.iter().filter(|slice| framework.join(slice.folder).exists()) {
        let variant = slice.variant.map_or_else(String::new, |variant| {
            format!("\n            <key>SupportedPlatformVariant</key><string>{variant}</string>")
        });
        libraries.push_str(&format!(
            "        <dict>
            <key>LibraryIdentifier</key><string>{}</string>
            <key>LibraryPath</key><string>{LIBRARY}</string>
            <key>BinaryPath</key><string>{LIBRARY}</string>
            <key>HeadersPath</key><string>Headers</string>
            <key>SupportedArchitectures</key><array><string>arm64</string></array>
            <key>SupportedPlatform</key><string>{}</string>{variant}
        </dict>\n",
            slice.folder, slice.platform
        ));
    }
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>
<!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">
<plist version=\"1.0\">
<dict>
    <key>AvailableLibraries</key>
    <array>
{libraries}    </array>
    <key>CFBundlePackageType</key><string>XFWK</string>
    <key>XCFrameworkFormatVersion</key><string>1.0</string>
</dict>
</plist>
"
    )
}
