package dev.selvedge

import dev.selvedge.ffi.EngineException
import dev.selvedge.ffi.ErrorKind
import dev.selvedge.ffi.Failure
import kotlin.coroutines.cancellation.CancellationException
import kotlin.time.Duration
import kotlin.time.Duration.Companion.milliseconds

/**
 * What failed, on what, and what to do next: one subclass for each kind of thing that can go wrong.
 *
 * Throw one from a callback ([HttpTransport], [JobHandler], …) and its kind arrives at the engine.
 *
 * @property operation the operation that failed: `store.commit`
 * @property advice what to do next, if there is something
 * @property context what it failed on, by name
 * @property isRetryable the operation had no effect and the same call may succeed later
 * @property retryAfter how long to wait before the same call, when that is known
 */
public sealed class SelvedgeException(
    message: String,
    internal val kind: ErrorKind,
    public val operation: String = "app",
    public val advice: String? = null,
    public val context: Map<String, String> = emptyMap(),
    public val isRetryable: Boolean = false,
    public val retryAfter: Duration? = null,
) : Exception(message) {
    private constructor(kind: ErrorKind, failure: Failure) : this(
        failure.message,
        kind,
        failure.operation,
        failure.advice,
        failure.context,
        failure.retryable,
        failure.retryAfterMs?.toLong()?.milliseconds,
    )

    /** The caller passed something that can never work; nothing was changed. */
    public class InvalidInput : SelvedgeException {
        public constructor(message: String) : super(message, ErrorKind.INVALID_INPUT)

        internal constructor(failure: Failure) : super(ErrorKind.INVALID_INPUT, failure)
    }

    /** What was asked for does not exist. */
    public class NotFound : SelvedgeException {
        public constructor(message: String) : super(message, ErrorKind.NOT_FOUND)

        internal constructor(failure: Failure) : super(ErrorKind.NOT_FOUND, failure)
    }

    /** A service or device cannot be reached; the same call may work later. */
    public class Unavailable : SelvedgeException {
        public constructor(message: String) : super(message, ErrorKind.UNAVAILABLE)

        internal constructor(failure: Failure) : super(ErrorKind.UNAVAILABLE, failure)
    }

    /** Something with that identity exists already and differs. */
    public class Conflict internal constructor(failure: Failure) : SelvedgeException(ErrorKind.CONFLICT, failure)

    /** The lease or claim is no longer held. */
    public class LeaseLost internal constructor(failure: Failure) : SelvedgeException(ErrorKind.LEASE_LOST, failure)

    /** The engine has no plugin for it, or the plugin cannot do it. */
    public class Unsupported internal constructor(failure: Failure) : SelvedgeException(ErrorKind.UNSUPPORTED, failure)

    /** Too much is going on; the same call may work later. */
    public class Busy internal constructor(failure: Failure) : SelvedgeException(ErrorKind.BUSY, failure)

    /** A quota is used up. */
    public class RateLimited internal constructor(failure: Failure) : SelvedgeException(ErrorKind.RATE_LIMITED, failure)

    /** The engine was suspended or closed, or the stream cancelled, while the call ran. */
    public class Cancelled internal constructor(failure: Failure) : SelvedgeException(ErrorKind.CANCELLED, failure)

    /** Time ran out. */
    public class DeadlineExceeded internal constructor(failure: Failure) :
        SelvedgeException(ErrorKind.DEADLINE_EXCEEDED, failure)

    /** The disk or the configured size limit is full. */
    public class StorageFull internal constructor(failure: Failure) : SelvedgeException(ErrorKind.STORAGE_FULL, failure)

    /** The file or folder may not be written or read. */
    public class PermissionDenied internal constructor(failure: Failure) :
        SelvedgeException(ErrorKind.PERMISSION_DENIED, failure)

    /** Stored data is damaged; the file was left untouched. */
    public class Damaged internal constructor(failure: Failure) : SelvedgeException(ErrorKind.DAMAGED, failure)

    /** Stored data was written by a newer version; it was left untouched. */
    public class NewerVersion internal constructor(failure: Failure) : SelvedgeException(ErrorKind.NEWER_VERSION, failure)

    /** The input is larger than a limit. */
    public class TooLarge internal constructor(failure: Failure) : SelvedgeException(ErrorKind.TOO_LARGE, failure)

    /** The engine was closed. */
    public class Closed internal constructor(failure: Failure) : SelvedgeException(ErrorKind.CLOSED, failure)

    /** A bug in Selvedge, a plugin or a callback. */
    public class Internal internal constructor(failure: Failure) : SelvedgeException(ErrorKind.INTERNAL, failure)

    internal companion object {
        fun of(failure: Failure): SelvedgeException =
            when (failure.kind) {
                ErrorKind.INVALID_INPUT -> InvalidInput(failure)
                ErrorKind.NOT_FOUND -> NotFound(failure)
                ErrorKind.CONFLICT -> Conflict(failure)
                ErrorKind.LEASE_LOST -> LeaseLost(failure)
                ErrorKind.UNSUPPORTED -> Unsupported(failure)
                ErrorKind.BUSY -> Busy(failure)
                ErrorKind.RATE_LIMITED -> RateLimited(failure)
                ErrorKind.CANCELLED -> Cancelled(failure)
                ErrorKind.DEADLINE_EXCEEDED -> DeadlineExceeded(failure)
                ErrorKind.STORAGE_FULL -> StorageFull(failure)
                ErrorKind.PERMISSION_DENIED -> PermissionDenied(failure)
                ErrorKind.DAMAGED -> Damaged(failure)
                ErrorKind.NEWER_VERSION -> NewerVersion(failure)
                ErrorKind.TOO_LARGE -> TooLarge(failure)
                ErrorKind.UNAVAILABLE -> Unavailable(failure)
                ErrorKind.CLOSED -> Closed(failure)
                ErrorKind.INTERNAL -> Internal(failure)
            }

        /** What a callback threw, for the engine. */
        fun toEngine(error: Throwable): EngineException {
            val failure =
                if (error is SelvedgeException) {
                    Failure(
                        error.kind,
                        error.operation,
                        error.message ?: "no message",
                        error.advice,
                        error.context,
                        error.isRetryable,
                    )
                } else {
                    Failure(ErrorKind.INTERNAL, "app", "a callback of the app threw: $error")
                }
            return EngineException.Failed(failure)
        }
    }
}

/** Runs a call of the library and gives its error as a [SelvedgeException]. */
internal inline fun <T> calling(call: () -> T): T =
    try {
        call()
    } catch (error: EngineException.Failed) {
        throw SelvedgeException.of(error.failure).initCause(error)
    } catch (error: IllegalStateException) {
        // What the generated code throws once the native engine is gone; coroutines cancel with a subclass of it.
        if (error is CancellationException) throw error
        val failure = Failure(ErrorKind.CLOSED, "engine", "the engine is closed; open a new one", "open a new one")
        throw SelvedgeException.of(failure).initCause(error)
    } catch (error: dev.selvedge.ffi.InternalException) {
        throw SelvedgeException.of(Failure(ErrorKind.INTERNAL, "engine", error.message ?: "the library failed")).initCause(error)
    }
