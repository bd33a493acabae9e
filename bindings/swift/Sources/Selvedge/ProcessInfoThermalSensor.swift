#if canImport(Darwin)
    import Foundation
    import SelvedgeGenerated

    /// The heat as `ProcessInfo` knows it. Apple's four states are told as the Android steps that mean the same.
    public final class ProcessInfoThermalSensor: ThermalSensor {
        /// The sensor of this device.
        public init() {}

        public func read() throws -> ThermalReading {
            let status: ThermalStatus =
                switch ProcessInfo.processInfo.thermalState {
                case .nominal: .none
                case .fair: .light
                case .serious: .severe
                case .critical: .critical
                @unknown default: .severe
                }
            return ThermalReading(status: status)
        }
    }
#endif
