package dev.selvedge

// Plain values need no wrapping: these are the library's own, under the names that apps see.

/** What every call may say about itself: time limit, trace, tenant, urgency. */
public typealias Call = dev.selvedge.ffi.Call

/** One message of a chat. */
public typealias ChatMessage = dev.selvedge.ffi.ChatMessage

/** Asks a model to go on with a chat. */
public typealias ChatRequest = dev.selvedge.ffi.ChatRequest

/** A batch of an answer. */
public typealias ChatChunk = dev.selvedge.ffi.ChatChunk

/** What is well, what is not, and what to do about it. */
public typealias DoctorReport = dev.selvedge.ffi.DoctorReport

/** What a power cut may cost. */
public typealias Durability = dev.selvedge.ffi.Durability

/** A job that is safely written down. */
public typealias EnqueuedJob = dev.selvedge.ffi.EnqueuedJob

/** What a flush did. */
public typealias Flushed = dev.selvedge.ffi.Flushed

/** A request to send to the app's server. */
public typealias HttpRequest = dev.selvedge.ffi.HttpRequest

/** A response that arrived whole, of any status. */
public typealias HttpResponse = dev.selvedge.ffi.HttpResponse

/** A header of a request or response. */
public typealias Header = dev.selvedge.ffi.Header

/** Which intents. */
public typealias IntentFilter = dev.selvedge.ffi.IntentFilter

/** One page of intents. */
public typealias IntentPage = dev.selvedge.ffi.IntentPage

/** An intent as the app looks at it. */
public typealias IntentView = dev.selvedge.ffi.IntentView

/** Which jobs. */
public typealias JobFilter = dev.selvedge.ffi.JobFilter

/** One page of jobs. */
public typealias JobPage = dev.selvedge.ffi.JobPage

/** What a handler made of a job. */
public typealias JobOutcome = dev.selvedge.ffi.JobOutcome

/** A job to work on. */
public typealias LeasedJob = dev.selvedge.ffi.LeasedJob

/** A language model to open. */
public typealias ModelConfig = dev.selvedge.ffi.ModelConfig

/** Something the app wants its server to do exactly once. */
public typealias NewIntent = dev.selvedge.ffi.NewIntent

/** A job to enqueue. */
public typealias NewJob = dev.selvedge.ffi.NewJob

/** What a subscriber is told. */
public typealias Notice = dev.selvedge.ffi.Notice

/** Depth and age of a queue. */
public typealias QueueStats = dev.selvedge.ffi.QueueStats

/** Where a subscriber begins. */
public typealias Start = dev.selvedge.ffi.Start

/** An intent that is safely written down. */
public typealias Submitted = dev.selvedge.ffi.Submitted

/** How jobs are worked on. */
public typealias WorkOptions = dev.selvedge.ffi.WorkOptions

/** What the app lends the engine. All of it is optional. */
public typealias Hosts = dev.selvedge.ffi.Hosts

/** Tells whether there is a network. */
public typealias Connectivity = dev.selvedge.ffi.Connectivity

/** A network. */
public typealias NetworkStatus = dev.selvedge.ffi.NetworkStatus

/** Reads how hot the device is. */
public typealias ThermalSensor = dev.selvedge.ffi.ThermalSensor

/** What a thermal sensor shows. */
public typealias ThermalReading = dev.selvedge.ffi.ThermalReading

/** How hot a device is, in steps. */
public typealias ThermalStatus = dev.selvedge.ffi.ThermalStatus

/** A wall clock. */
public typealias HostClock = dev.selvedge.ffi.HostClock

/** Where log lines go. */
public typealias LogSink = dev.selvedge.ffi.LogSink

/** One log line. */
public typealias LogRecord = dev.selvedge.ffi.LogRecord

/** Asks what somebody sees at a placement. */
public typealias AssignRequest = dev.selvedge.ffi.AssignRequest

/** What somebody sees. */
public typealias Assignment = dev.selvedge.ffi.Assignment

/** What a placement shows. */
public typealias Shown = dev.selvedge.ffi.Shown

/** An event of a paywall. */
public typealias PaywallEvent = dev.selvedge.ffi.PaywallEvent

/** An event to keep. */
public typealias NewEvent = dev.selvedge.ffi.NewEvent

/** Where placements come from. */
public typealias ExperimentsConfig = dev.selvedge.ffi.ExperimentsConfig

/** A key that configurations may be signed with. */
public typealias TrustedKey = dev.selvedge.ffi.TrustedKey

/** Where a configuration came from. */
public typealias ConfigOrigin = dev.selvedge.ffi.ConfigOrigin

/** How the placements' configuration is doing. */
public typealias ConfigHealth = dev.selvedge.ffi.ConfigHealth

/** Whether, where and when an offer is made to who is leaving. */
public typealias ExitOfferSettings = dev.selvedge.ffi.ExitOfferSettings

/** What happened at a paywall. */
public typealias ExitInput = dev.selvedge.ffi.ExitInput

/** What to do about it. */
public typealias ExitAction = dev.selvedge.ffi.ExitAction

/** What may set an exit offer off. */
public typealias Trigger = dev.selvedge.ffi.Trigger

/** Where the app runs. */
public typealias Platform = dev.selvedge.ffi.Platform

/** Whether the store would let somebody have an offer. */
public typealias Eligibility = dev.selvedge.ffi.Eligibility

/** Why no offer is made. */
public typealias Declined = dev.selvedge.ffi.Declined
