// swift-tools-version:6.0
import PackageDescription

let package = Package(
    name: "consumer",
    platforms: [.iOS(.v15), .macOS(.v12)],
    dependencies: [.package(name: "Selvedge", path: "../Selvedge")],
    targets: [.executableTarget(name: "consumer", dependencies: [.product(name: "Selvedge", package: "Selvedge")])]
)
