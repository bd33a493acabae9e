import Foundation
import SelvedgeGenerated

// Plain values need no wrapping: these are the library's own, under the names that apps see.

/// What every call may say about itself: time limit, trace, tenant, urgency.
public typealias Call = SelvedgeGenerated.Call
/// How urgent a call to a model is.
public typealias Class = SelvedgeGenerated.Class
/// One message of a chat.
public typealias ChatMessage = SelvedgeGenerated.ChatMessage
/// Asks a model to go on with a chat.
public typealias ChatRequest = SelvedgeGenerated.ChatRequest
/// A batch of an answer.
public typealias ChatChunk = SelvedgeGenerated.ChatChunk
/// Why an answer ended.
public typealias StopReason = SelvedgeGenerated.StopReason
/// What is well, what is not, and what to do about it.
public typealias DoctorReport = SelvedgeGenerated.DoctorReport
/// One line of a report.
public typealias Finding = SelvedgeGenerated.Finding
/// How well something is.
public typealias Health = SelvedgeGenerated.Health
/// What a power cut may cost.
public typealias Durability = SelvedgeGenerated.Durability
/// A job that is safely written down.
public typealias EnqueuedJob = SelvedgeGenerated.EnqueuedJob
/// What kind of thing went wrong.
public typealias ErrorKind = SelvedgeGenerated.ErrorKind
/// What a flush did.
public typealias Flushed = SelvedgeGenerated.Flushed
/// A request to send to the app's server.
public typealias HTTPRequest = SelvedgeGenerated.HttpRequest
/// A response that arrived whole, of any status.
public typealias HTTPResponse = SelvedgeGenerated.HttpResponse
/// A header of a request or response.
public typealias Header = SelvedgeGenerated.Header
/// Which intents.
public typealias IntentFilter = SelvedgeGenerated.IntentFilter
/// One page of intents.
public typealias IntentPage = SelvedgeGenerated.IntentPage
/// How far an intent is.
public typealias IntentState = SelvedgeGenerated.IntentState
/// An intent as the app looks at it.
public typealias IntentView = SelvedgeGenerated.IntentView
/// Which jobs.
public typealias JobFilter = SelvedgeGenerated.JobFilter
/// One page of jobs.
public typealias JobPage = SelvedgeGenerated.JobPage
/// What a handler made of a job.
public typealias JobOutcome = SelvedgeGenerated.JobOutcome
/// How far a job is.
public typealias JobState = SelvedgeGenerated.JobState
/// A job as the app looks at it.
public typealias JobView = SelvedgeGenerated.JobView
/// A job to work on.
public typealias LeasedJob = SelvedgeGenerated.LeasedJob
/// Objects that the app holds, or forgot to give back.
public typealias LiveObjects = SelvedgeGenerated.LiveObjects
/// A language model to open.
public typealias ModelConfig = SelvedgeGenerated.ModelConfig
/// A model the engine has.
public typealias ModelDescription = SelvedgeGenerated.ModelDescription
/// Something the app wants its server to do exactly once.
public typealias NewIntent = SelvedgeGenerated.NewIntent
/// A job to enqueue.
public typealias NewJob = SelvedgeGenerated.NewJob
/// What a subscriber is told.
public typealias Notice = SelvedgeGenerated.Notice
/// Depth and age of a queue.
public typealias QueueStats = SelvedgeGenerated.QueueStats
/// Where a subscriber begins.
public typealias Start = SelvedgeGenerated.Start
/// An intent that is safely written down.
public typealias Submitted = SelvedgeGenerated.Submitted
/// What the app lends the engine. All of it is optional.
public typealias Hosts = SelvedgeGenerated.Hosts
/// Tells whether there is a network.
public typealias Connectivity = SelvedgeGenerated.Connectivity
/// A network.
public typealias NetworkStatus = SelvedgeGenerated.NetworkStatus
/// Reads how hot the device is.
public typealias ThermalSensor = SelvedgeGenerated.ThermalSensor
/// What a thermal sensor shows.
public typealias ThermalReading = SelvedgeGenerated.ThermalReading
/// How hot a device is, in steps.
public typealias ThermalStatus = SelvedgeGenerated.ThermalStatus
/// A wall clock.
public typealias HostClock = SelvedgeGenerated.HostClock
/// Where log lines go.
public typealias LogSink = SelvedgeGenerated.LogSink
/// How urgent a log line is.
public typealias LogLevel = SelvedgeGenerated.LogLevel
/// One log line.
public typealias LogRecord = SelvedgeGenerated.LogRecord
/// Asks what somebody sees at a placement.
public typealias AssignRequest = SelvedgeGenerated.AssignRequest
/// What somebody sees.
public typealias Assignment = SelvedgeGenerated.Assignment
/// How the placements' configuration is doing.
public typealias ConfigHealth = SelvedgeGenerated.ConfigHealth
/// Where a configuration came from.
public typealias ConfigOrigin = SelvedgeGenerated.ConfigOrigin
/// Why no offer is made.
public typealias Declined = SelvedgeGenerated.Declined
/// Whether the store would let somebody have an offer.
public typealias Eligibility = SelvedgeGenerated.Eligibility
/// What to do about what happened at a paywall.
public typealias ExitAction = SelvedgeGenerated.ExitAction
/// What happened at a paywall.
public typealias ExitInput = SelvedgeGenerated.ExitInput
/// Whether, where and when an offer is made to who is leaving.
public typealias ExitOfferSettings = SelvedgeGenerated.ExitOfferSettings
/// Where placements come from.
public typealias ExperimentsConfig = SelvedgeGenerated.ExperimentsConfig
/// An event to keep.
public typealias NewEvent = SelvedgeGenerated.NewEvent
/// An event of a paywall.
public typealias PaywallEvent = SelvedgeGenerated.PaywallEvent
/// Where the app runs.
public typealias Platform = SelvedgeGenerated.Platform
/// What a placement shows.
public typealias Shown = SelvedgeGenerated.Shown
/// What may set an exit offer off.
public typealias Trigger = SelvedgeGenerated.Trigger
/// A key that configurations may be signed with.
public typealias TrustedKey = SelvedgeGenerated.TrustedKey

extension Call {
    /// A call that may take this many seconds.
    public static func timeout(_ seconds: TimeInterval) -> Call {
        Call(timeoutMs: milliseconds(seconds))
    }
}

extension ChatRequest {
    /// Asks one question.
    public init(_ question: String, model: String? = nil, maxTokens: UInt32 = 256) {
        self.init(messages: [ChatMessage(role: "user", content: question)], model: model, maxTokens: maxTokens)
    }
}

/// How many objects are alive in this process: what a leak test counts.
public func liveObjects() throws -> LiveObjects {
    try calling { try SelvedgeGenerated.liveObjects() }
}
