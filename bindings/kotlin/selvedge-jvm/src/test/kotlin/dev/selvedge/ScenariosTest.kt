package dev.selvedge

import com.sun.net.httpserver.HttpServer
import dev.selvedge.ffi.CancelHandle
import dev.selvedge.ffi.Class
import dev.selvedge.ffi.Health
import dev.selvedge.ffi.IntentState
import dev.selvedge.ffi.JobState
import dev.selvedge.ffi.liveObjects
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.awaitAll
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.take
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import org.junit.Assume.assumeTrue
import java.net.HttpURLConnection
import java.net.InetAddress
import java.net.InetSocketAddress
import java.net.URI
import java.nio.file.Files
import java.util.UUID
import java.util.concurrent.ConcurrentLinkedQueue
import java.util.concurrent.atomic.AtomicInteger
import kotlin.math.abs
import kotlin.random.Random
import kotlin.test.AfterTest
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertFalse
import kotlin.test.assertNotNull
import kotlin.test.assertNull
import kotlin.test.assertTrue
import kotlin.time.Duration.Companion.microseconds
import kotlin.time.Duration.Companion.milliseconds
import kotlin.time.Duration.Companion.seconds
import dev.selvedge.ffi.ExitAction as ExitActionOf
import dev.selvedge.ffi.ExitInput as ExitInputOf
import dev.selvedge.ffi.JobOutcome as Outcome
import dev.selvedge.ffi.Notice as NoticeOf
import dev.selvedge.ffi.PaywallEvent as PaywallEventOf
import dev.selvedge.ffi.Start as StartAt

/** The scenarios of bindings/scenarios.md, on the real library, database, HTTP and model. */
class ScenariosTest {
    private val folder = Files.createTempDirectory("selvedge").toFile()
    private val path = folder.resolve("app.db").path
    private val engines = mutableListOf<Engine>()
    private val seen = ConcurrentLinkedQueue<Pair<Map<String, String>, String>>()

    @Volatile
    private var status = 201
    private val server =
        HttpServer.create(InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0).apply {
            createContext("/") { exchange ->
                val headers = exchange.requestHeaders.entries.associate { it.key.lowercase() to it.value.first() }
                seen += headers to exchange.requestBody.readBytes().decodeToString()
                val body = """{"ok":true}""".encodeToByteArray()
                exchange.responseHeaders.add("Content-Type", "application/json")
                exchange.sendResponseHeaders(status, body.size.toLong())
                exchange.responseBody.use { it.write(body) }
            }
            start()
        }

    @AfterTest
    fun close() {
        engines.forEach(Engine::close)
        server.stop(0)
        folder.deleteRecursively()
    }

    private val transport =
        HttpTransport { request ->
            val url = URI("http://127.0.0.1:${server.address.port}${request.path}").toURL()
            val connection = url.openConnection() as HttpURLConnection
            connection.requestMethod = request.method
            connection.doOutput = true
            request.headers.forEach { connection.setRequestProperty(it.name, it.value) }
            connection.outputStream.use { it.write(request.body) }
            val code = connection.responseCode
            val body = (if (code < 400) connection.inputStream else connection.errorStream)?.readBytes() ?: ByteArray(0)
            HttpResponse(code.toUShort(), emptyList(), body)
        }

    private suspend fun open(
        database: String = path,
        hosts: Hosts = Hosts(),
        models: List<ModelConfig> = emptyList(),
        timeoutMs: Int = 30_000,
    ) = Engine
        .open(database, models, hosts = hosts, callbackTimeout = timeoutMs.milliseconds)
        .also { engines += it }

    private fun scenario(test: suspend CoroutineScope.() -> Unit) =
        runBlocking(Dispatchers.Default) {
            withTimeout(120.seconds) { test() }
        }

    private suspend fun Engine.order(id: String? = null) = submit(NewIntent("orders.create", TEA, id = id))

    private suspend fun until(
        what: String,
        holds: suspend () -> Boolean,
    ) = withTimeout(20.seconds) {
        while (!holds()) delay(10.milliseconds)
        what
    }

    private suspend fun model(): Engine {
        val path = System.getProperty("selvedge.model").orEmpty()
        assumeTrue("the property selvedge.model names no model", path.isNotEmpty())
        return open(models = listOf(ModelConfig(path, name = "smol", contextTokens = 2048u, threads = 1u)))
    }

    private fun ask(
        text: String,
        tokens: Int,
    ) = ChatRequest(listOf(ChatMessage("user", text)), maxTokens = tokens.toUInt(), batchWaitMs = 60_000uL)

    @Test
    fun `a new database is found well`() =
        scenario {
            val report = open().doctor()
            assertEquals(Health.OK, report.health)
            assertContains(report.findings.first().found, "app.db")
        }

    @Test
    fun `an intent survives reopening`() =
        scenario {
            val submitted = open().use { it.submit(NewIntent("orders.create", TEA, businessKey = "cart-17")) }
            assertTrue(submitted.key.startsWith("orders.create:cart-17:"))
            val again = open()
            assertEquals(listOf(submitted.id), again.intents().items.map { it.id })
            val view = assertNotNull(again.intent(submitted.id))
            assertEquals(IntentState.PENDING, view.state)
            assertEquals(TEA.decodeToString(), view.payload.decodeToString())
            assertNull(again.intent(UUID.randomUUID().toString()))
        }

    @Test
    fun `an intent with a known id is a duplicate`() =
        scenario {
            val engine = open()
            val id = UUID.randomUUID().toString()
            assertFalse(engine.order(id).duplicate)
            assertTrue(engine.order(id).duplicate)
            val other = NewIntent("orders.create", """{"item":"gold"}""".encodeToByteArray(), id = id)
            assertFailsWith<SelvedgeException.Conflict> { engine.submit(other) }
        }

    @Test
    fun `a flush sends the key and keeps the answer`() =
        scenario {
            val engine = open()
            val trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
            val submitted = engine.submit(NewIntent("orders.create", TEA), Call(traceparent = trace))
            val flushed = engine.flush(transport)
            assertEquals(listOf(1uL, 1uL, 0uL), listOf(flushed.attempts, flushed.answered, flushed.failed))
            val (headers, body) = seen.single()
            assertEquals("\"${submitted.key}\"", headers["idempotency-key"])
            assertContains(headers.getValue("traceparent"), "4bf92f3577b34da6a3ce929d0e0e4736")
            assertEquals("""{"operation":"orders.create","payload":{"item":"tea"}}""", body)
            val view = assertNotNull(engine.intent(submitted.id))
            assertEquals(IntentState.DONE to 201, view.state to view.answerStatus?.toInt())
            assertEquals("""{"ok":true}""", view.answerBody?.decodeToString())
        }

    @Test
    fun `a refused intent is kept as refused`() =
        scenario {
            val engine = open()
            val submitted = engine.order()
            status = 422
            engine.flush(transport)
            val view = assertNotNull(engine.intent(submitted.id))
            assertEquals(IntentState.REFUSED to 422, view.state to view.answerStatus?.toInt())
        }

    @Test
    fun `a failed request is repeated with the same key`() =
        scenario {
            val engine = open()
            val submitted = engine.order()
            status = 503
            assertEquals(1uL, engine.flush(transport).failed)
            status = 201
            assertEquals(1uL, engine.flush(transport).answered)
            assertEquals(List(2) { "\"${submitted.key}\"" }, seen.map { it.first["idempotency-key"] })
        }

    @Test
    fun `a relay sends intents as they come`() =
        scenario {
            val engine = open()
            val relay = launch { engine.relay(transport) }
            repeat(3) { engine.order() }
            until("all are sent") { seen.size == 3 }
            relay.cancelAndJoin()
        }

    @Test
    fun `offline is an error and costs no attempt`() =
        scenario {
            val offline =
                object : Connectivity {
                    override fun status() = NetworkStatus.OFFLINE
                }
            val engine = open(hosts = Hosts(connectivity = offline))
            val submitted = engine.order()
            val error = assertFailsWith<SelvedgeException.Unavailable> { engine.flush(transport) }
            assertContains(error.message.orEmpty(), "offline")
            assertEquals(0u, engine.intent(submitted.id)?.attempts)
            assertTrue(seen.isEmpty())
        }

    @Test
    fun `a callback that throws is a failed attempt`() =
        scenario {
            val engine = open()
            val submitted = engine.order()
            assertEquals(1uL, engine.flush({ error("undeclared") }).failed)
            assertContains(engine.intent(submitted.id)?.lastError.orEmpty(), "undeclared")
            assertEquals(1uL, engine.flush({ throw SelvedgeException.Unavailable("no route") }).failed)
            assertContains(engine.intent(submitted.id)?.lastError.orEmpty(), "no route")
            assertEquals(1uL, engine.flush(transport).answered)
        }

    @Test
    fun `a callback that hangs ends by its timeout`() =
        scenario {
            val engine = open(timeoutMs = 100)
            val submitted = engine.order()
            val flushed =
                engine.flush({
                    delay(3600.seconds)
                    error("never")
                })
            assertEquals(1uL, flushed.failed)
            assertContains(engine.intent(submitted.id)?.lastError.orEmpty(), "in time")
        }

    @Test
    fun `a callback may call the engine`() =
        scenario {
            val engine = open()
            engine.order()
            val sizes = ConcurrentLinkedQueue<Int>()
            val flushed =
                engine.flush({ request ->
                    sizes += engine.intents().items.size
                    transport.send(request)
                })
            assertEquals(1uL to listOf(1), flushed.answered to sizes.toList())
        }

    @Test
    fun `messages arrive in order`() =
        scenario {
            val engine = open()
            repeat(100) { engine.publish("news", "$it".encodeToByteArray()) }
            val read =
                engine
                    .subscribe("news", StartAt.Earliest)
                    .take(100)
                    .toList()
                    .map { it as NoticeOf.Message }
            assertEquals((0..99).toList(), read.map { it.payload.decodeToString().toInt() })
            val rest = engine.subscribe("news", StartAt.After(read[97].cursor)).take(2).toList()
            assertEquals(listOf("98", "99"), rest.map { (it as NoticeOf.Message).payload.decodeToString() })
        }

    @Test
    fun `a large message arrives whole`() =
        scenario {
            val engine = open()
            val payloads = listOf(65_535, 65_536, 1_000_000).map { Random.nextBytes(it) }
            payloads.forEach { engine.publish("news", it) }
            val read = engine.subscribe("news", StartAt.Earliest).take(payloads.size).toList()
            payloads.zip(read) { sent, notice -> assertContentEquals(sent, (notice as NoticeOf.Message).payload) }
            assertFailsWith<SelvedgeException.TooLarge> { engine.publish("news", ByteArray(100_000_000)) }
        }

    @Test
    fun `a cancelled subscription ends`() =
        scenario {
            val engine = open()
            val before = liveObjects()
            val waiting = launch { engine.subscribe("news").first() }
            until("it waits") { liveObjects().streams > before.streams }
            waiting.cancelAndJoin()
            until("it is gone") { liveObjects() == before }
        }

    @Test
    fun `jobs are worked on and retried`() =
        scenario {
            val tried = ConcurrentLinkedQueue<Pair<String, UInt>>()
            val handler =
                JobHandler { job ->
                    val payload = job.payload.decodeToString()
                    tried += payload to job.attempt
                    if (payload == "bad") throw SelvedgeException.InvalidInput("it can never work")
                    check(payload != "later" || job.attempt > 1u) { "the first attempt fails" }
                    Outcome.Done
                }
            val engine = open()
            val jobs = listOf("good", "bad", "later").map { NewJob("mail", it.encodeToByteArray()) }
            assertEquals(3, engine.enqueue(*jobs.toTypedArray()).size)
            val work = launch { engine.work(WorkOptions(listOf("mail"), concurrency = 2u), handler) }
            until("every job has ended") {
                val queue = engine.queues().single()
                queue.ready + queue.running + queue.scheduled == 0uL
            }
            work.cancelAndJoin()
            val expected = setOf("bad" to 1u, "good" to 1u, "later" to 1u, "later" to 2u)
            assertEquals(expected, tried.toSet())
            assertEquals(4, tried.size)
            assertEquals(
                "bad",
                engine
                    .jobs(JobFilter(state = JobState.DEAD))
                    .items
                    .single()
                    .payload
                    .decodeToString(),
            )
        }

    @Test
    fun `a job is cancelled and revived`() =
        scenario {
            val engine = open()
            val job = engine.enqueue(NewJob("mail", ByteArray(0), unique = "one")).single()
            val twin = engine.enqueue(NewJob("mail", ByteArray(0), unique = "one")).single()
            assertEquals(job.id to true, twin.id to twin.duplicate)
            engine.cancelJob(job.id)
            assertEquals(
                JobState.CANCELLED,
                engine
                    .jobs()
                    .items
                    .single()
                    .state,
            )
            engine.reviveJob(job.id)
            assertEquals(
                JobState.READY,
                engine
                    .jobs()
                    .items
                    .single()
                    .state,
            )
        }

    @Test
    fun `a chat streams in batches`() =
        scenario {
            val engine = model()
            val answers = List(2) { engine.chat(ask("Name three teas.", 64)).toList() }
            val texts = answers.map { parts -> parts.joinToString("") { it.text } }
            assertTrue(texts[0].isNotEmpty())
            assertEquals(texts[0], texts[1])
            assertNotNull(answers[0].last().stop)
            assertTrue(answers[0].size <= 6 + answers[0].sumOf { it.tokens.size } / 32)
        }

    @Test
    fun `a thousand tokens cross in forty calls`() =
        scenario {
            val parts = model().chat(ask("Write a very long story about tea, in twenty chapters.", 1000)).toList()
            assertEquals(1000, parts.sumOf { it.tokens.size })
            // The end is a call too.
            assertTrue(parts.size + 1 <= 40)
        }

    @Test
    fun `a cancelled chat stops`() =
        scenario {
            val engine = model()
            engine.chat(ask("Write a long story.", 1500)).first()
            // The place is free again: the next answer does not wait for 1,500 tokens.
            assertNotNull(withTimeout(60.seconds) { engine.chat(ask("Hi", 1)).first() })
        }

    @Test
    fun `a short chat does not wait for a long one`() =
        scenario {
            val engine = model()
            val parts = AtomicInteger()
            val patient =
                launch {
                    val call = Call(`class` = Class.P2)
                    engine.chat(ask("Write a long story.", 1500), call).collect { parts.incrementAndGet() }
                }
            until("the story begins") { parts.get() > 0 }
            val urgent = withTimeout(60.seconds) { engine.chat(ask("Hi", 4)).toList() }
            assertNotNull(urgent.last().stop)
            // The story is not over: it stood back.
            assertTrue(patient.isActive)
            patient.cancelAndJoin()
        }

    @Test
    fun `an answer is held to a schema`() =
        scenario {
            val engine = model()
            val request = ask("Which tea?", 16).copy(jsonSchema = """{"enum": ["green", "black"]}""")
            val text = engine.chat(request).toList().joinToString("") { it.text }
            assertTrue(text in listOf("\"green\"", "\"black\""), text)
            assertFailsWith<SelvedgeException.InvalidInput> { engine.chat(request.copy(jsonSchema = "{")).toList() }
        }

    @Test
    fun `texts become vectors`() =
        scenario {
            val vectors = model().embed(listOf("green tea", "a train"))
            assertEquals(2, vectors.size)
            vectors.forEach { vector -> assertTrue(abs(vector.sumOf { (it * it).toDouble() } - 1.0) < 1e-3) }
        }

    @Test
    fun `without a model a chat is unsupported`() =
        scenario {
            val engine = open()
            assertFailsWith<SelvedgeException.Unsupported> { engine.chat(ask("Hi", 1)).first() }
        }

    private suspend fun shop(
        database: String = path,
        cache: String? = null,
    ): Engine =
        Engine
            .open(database, experiments = ExperimentsConfig(bundledJson = PLACEMENTS, cache = cache))
            .also { engines += it }

    private fun purchase(
        currency: String = "EUR",
        discount: UByte = 50u,
        revenue: Long = 1499,
    ) = PaywallEventOf.PurchaseCompleted(
        productId = "pro.annual",
        revenue = revenue,
        currency = currency,
        isTrial = false,
        discountPct = discount,
        isRefund = false,
        placementId = "main_paywall",
        transactionId = null,
    )

    @Test
    fun `a placement is shown and stays`() =
        scenario {
            val engine = shop()
            val request = AssignRequest("ada", "main_paywall", device = "phone", attributesJson = """{"country":"DE"}""")
            val seen = engine.assign(request)
            assertEquals(Triple("depth", "half", true), Triple(seen.experiment, seen.variation, seen.enrolled))
            val shown = assertNotNull(seen.shown)
            assertEquals("annual_half" to 50.toUByte(), shown.offering to shown.discountPct)
            assertEquals(mapOf("title" to "Go pro"), shown.copy)
            assertTrue(assertNotNull(shown.exitOffer).enabled)
            engine.close()
            val again = shop()
            assertEquals(seen, again.assign("main_paywall", "ada", device = "phone"))
            val elsewhere = again.assign(AssignRequest("bob", "main_paywall", attributesJson = """{"country":"FR"}"""))
            assertEquals(null to "annual", elsewhere.experiment to elsewhere.shown?.offering)
        }

    @Test
    fun `a peek enrols nobody`() =
        scenario {
            val engine = shop()
            val seen = engine.assign(AssignRequest("ada", "main_paywall", peek = true))
            assertEquals("half" to false, seen.variation to seen.enrolled)
            assertEquals(emptyList(), engine.intents().items)
        }

    @Test
    fun `a placement that is not configured is not found`() =
        scenario {
            val engine = shop()
            assertNull(engine.assign("upgrade_nudge", "ada").shown)
            assertFailsWith<SelvedgeException.NotFound> { engine.assign("elsewhere", "ada") }
            assertFailsWith<SelvedgeException.InvalidInput> {
                engine.assign(AssignRequest("ada", "main_paywall", attributesJson = "[]"))
            }
            val bare = Engine.open(folder.resolve("bare.db").path).also { engines += it }
            assertFailsWith<SelvedgeException.Unsupported> { bare.assign("main_paywall", "ada") }
        }

    @Test
    fun `events go to the server once`() =
        scenario {
            val engine = shop()
            repeat(2) { engine.assign("main_paywall", "ada") }
            val bought = NewEvent("ada", purchase(), UUID.randomUUID().toString())
            repeat(2) { engine.track(bought) }
            val flushed = engine.flush(transport)
            assertEquals(2uL to 0uL, flushed.answered to flushed.failed)
            val sent = seen.map { it.second }
            assertContains(sent[0], "paywall_impression")
            assertContains(sent[1], "purchase_completed")
            assertContains(sent[1], bought.id!!)
            assertTrue(sent.all { "events.track" in it })
        }

    @Test
    fun `an event that is wrong is refused`() =
        scenario {
            val engine = shop()
            for (wrong in listOf(purchase(currency = "euro"), purchase(discount = 101u), purchase(revenue = -1))) {
                assertFailsWith<SelvedgeException.InvalidInput> { engine.track("ada", wrong) }
            }
            assertFailsWith<SelvedgeException.InvalidInput> { engine.track("", purchase()) }
            assertEquals(emptyList(), engine.intents().items)
        }

    @Test
    fun `a configuration is fetched and kept`() =
        scenario {
            val cache = folder.resolve("placements.json").path
            val tags = ConcurrentLinkedQueue<String>()
            var body = """{"features":{"main_paywall":{"defaultValue":{"offering":"from_the_server"}}}}"""
            var tag = "\"1\""
            val server =
                HttpTransport { request ->
                    val known = request.headers.firstOrNull { it.name == "if-none-match" }?.value
                    tags += known ?: "none"
                    val etag = listOf(Header("ETag", tag))
                    if (known == tag) HttpResponse(304u, etag) else HttpResponse(200u, etag, body.encodeToByteArray())
                }
            val engine = shop(cache = cache)
            assertEquals(ConfigOrigin.BUNDLED, engine.configHealth().source)
            assertTrue(engine.refreshConfig(server))
            assertFalse(engine.refreshConfig(server))
            assertEquals(listOf("none", "\"1\""), tags.toList())
            assertEquals("from_the_server", engine.assign("main_paywall", "ada").shown?.offering)
            body = """{"features": {"main_pay"""
            tag = "\"2\""
            assertFailsWith<SelvedgeException.Damaged> { engine.refreshConfig(server) }
            val health = engine.configHealth()
            assertEquals(Triple(ConfigOrigin.SERVER, 1uL, false), Triple(health.source, health.features, health.stale))
            assertNotNull(health.lastError)
            engine.close()
            val again = shop(cache = cache)
            assertEquals(ConfigOrigin.CACHE, again.configHealth().source)
            assertEquals("from_the_server", again.assign("main_paywall", "ada").shown?.offering)
        }

    @Test
    fun `an exit offer is made once`() =
        scenario {
            val shown = assertNotNull(shop().assign("main_paywall", "ada").shown)
            val first = ExitOffer(Platform.ANDROID)
            first.configure(shown.exitOffer)
            val (load, check) = first.on(ExitInputOf.PaywallShown("main_paywall", shown.offering, "depth", "half"), 0)
            assertTrue(load is ExitActionOf.LoadOffer && check is ExitActionOf.CheckEligibility)
            assertEquals(Declined.NOT_LOADED, first.declined(Trigger.BACK, 1))
            first.on(ExitInputOf.OfferLoaded(load.revision, "exit_annual"), 1)
            first.on(ExitInputOf.EligibilityKnown(load.revision, Eligibility.ELIGIBLE), 2)
            val exit = ExitOffer.restore(first.save())
            first.close()
            assertNull(exit.declined(Trigger.BACK, 3))
            val (show, record) = exit.on(ExitInputOf.Back, 3)
            assertEquals(ExitActionOf.ShowOffer("exit_offer", "exit_annual", Trigger.BACK), show)
            assertEquals("half", ((record as ExitActionOf.Record).event as PaywallEventOf.ExitOfferTriggered).variant)
            assertEquals(listOf(ExitActionOf.LetGo(Declined.OFFER_SHOWN)), exit.on(ExitInputOf.Back, 4))
            exit.close()
            assertFailsWith<SelvedgeException.InvalidInput> { ExitOffer.restore("not a state") }
        }

    @Test
    fun `a used cancel handle stops a call`() =
        scenario {
            open()
            CancelHandle().use { handle ->
                handle.cancel()
                assertTrue(handle.isCancelled())
                dev.selvedge.ffi.Engine.open(dev.selvedge.ffi.EngineConfig(path), Hosts()).use { native ->
                    assertFailsWith<SelvedgeException.Cancelled> {
                        calling { native.submit(NewIntent("orders.create", TEA), Call(), handle) }
                    }
                    native.shutdown()
                }
            }
            assertTrue(
                engines
                    .single()
                    .intents()
                    .items
                    .isEmpty(),
            )
        }

    @Test
    fun `a timeout ends a call`() =
        scenario {
            val engine = open()
            engine.order()
            assertFailsWith<SelvedgeException.DeadlineExceeded> {
                engine.flush({
                    delay(3600.seconds)
                    error("never")
                }, Call(timeoutMs = 100uL))
            }
        }

    @Test
    fun `cancelling at any moment harms nothing`() =
        scenario {
            val engine = open()
            // The job that is cancelled and revived below.
            engine.enqueue(NewJob("mail", TEA))
            val before = liveObjects()
            val calls: List<suspend () -> Unit> =
                listOf(
                    { engine.order() },
                    { engine.intents() },
                    { engine.intent(UUID.randomUUID().toString()) },
                    { engine.flush(transport) },
                    { engine.enqueue(NewJob("mail", TEA)) },
                    { engine.jobs() },
                    { engine.queues() },
                    { engine.cancelJob(1) },
                    { engine.reviveJob(1) },
                    { engine.publish("news", TEA) },
                    { engine.publish("large", ByteArray(100_000)) },
                    { engine.subscribe("news", StartAt.Earliest).collect {} },
                    { engine.doctor() },
                    { engine.maintain() },
                    { engine.trim() },
                )
            var (stopped, ended) = 0 to 0
            for (round in 0 until 40) {
                for (call in calls) {
                    val running = launch { call() }
                    delay((round * 50).microseconds)
                    running.cancelAndJoin()
                    if (running.isCancelled) stopped++ else ended++
                }
            }
            assertTrue(stopped > 40 && ended > 40, "$stopped were stopped, $ended had ended")
            until("nothing is left") { liveObjects() == before }
            assertFalse(engine.order().duplicate)
        }

    @Test
    fun `a suspended engine refuses until it resumes`() =
        scenario {
            val engine = open()
            engine.suspend()
            assertFailsWith<SelvedgeException.Unavailable> { engine.order() }
            engine.resume()
            assertFalse(engine.order().duplicate)
        }

    @Test
    fun `trim and maintain lose nothing`() =
        scenario {
            val engine = open()
            engine.order()
            engine.trim()
            engine.maintain()
            assertEquals(1, engine.intents().items.size)
        }

    @Test
    fun `a closed engine says so`() =
        scenario {
            val engine = open()
            engine.close()
            engine.close()
            val error = assertFailsWith<SelvedgeException.Closed> { engine.order() }
            assertContains(error.message.orEmpty(), "open a new one")
        }

    @Test
    fun `many threads share an engine`() =
        scenario {
            val engine = open()
            List(8) { async(Dispatchers.IO) { repeat(25) { engine.order() } } }.awaitAll()
            assertEquals(200, engine.intents(IntentFilter(limit = 1000u)).items.size)
        }

    @Test
    fun `a huge payload is refused`() =
        scenario {
            val engine = open()
            val huge = ByteArray(100_000_000) { 'x'.code.toByte() }
            assertFailsWith<SelvedgeException.TooLarge> { engine.submit(NewIntent("orders.create", huge)) }
            assertFailsWith<SelvedgeException.TooLarge> { engine.enqueue(NewJob("mail", huge)) }
            assertTrue(engine.intents().items.isEmpty())
        }

    @Test
    fun `a payload that is not text is refused`() =
        scenario {
            val bytes = byteArrayOf('"'.code.toByte(), 0xff.toByte(), 0xfe.toByte(), '"'.code.toByte())
            val engine = open()
            assertFailsWith<SelvedgeException.InvalidInput> { engine.submit(NewIntent("orders.create", bytes)) }
        }

    @Test
    fun `an unwritable path is refused`() =
        scenario {
            for (bad in listOf("", "a\u0000b", folder.resolve("no/such/folder/app.db").path)) {
                val error = assertFailsWith<SelvedgeException> { open(bad) }
                assertNotNull(error.advice, "$error")
            }
        }

    @Test
    fun `two engines share one file`() =
        scenario {
            val one = open()
            val two = open()
            one.publish("news", "hello".encodeToByteArray())
            val notice = two.subscribe("news", StartAt.Earliest).first() as NoticeOf.Message
            assertEquals("hello", notice.payload.decodeToString())
        }

    @Test
    fun `the app's clock is the database's`() =
        scenario {
            val later =
                object : HostClock {
                    override fun nowMs() = 4_000_000_000_000
                }
            val engine = open(hosts = Hosts(clock = later))
            val at = assertNotNull(engine.intent(engine.order().id)).submittedAtMs
            assertTrue(at - 4_000_000_000_000 in 0..60_000, "$at")
        }

    @Test
    fun `heat shows in the report`() =
        scenario {
            val hot =
                object : ThermalSensor {
                    override fun read() = ThermalReading(ThermalStatus.SEVERE, 1.25f)
                }
            val report = open(hosts = Hosts(thermal = hot)).doctor()
            assertEquals(Health.WARNING, report.health)
            assertContains(report.findings.single { it.check == "heat" }.found, "1.25")
        }

    @Test
    fun `log lines reach the app`() =
        scenario {
            val lines = ConcurrentLinkedQueue<LogRecord>()
            val sink =
                object : LogSink {
                    override fun log(record: LogRecord) {
                        lines += record
                        error("a sink that throws disturbs nobody")
                    }
                }
            val broken =
                object : Connectivity {
                    override fun status(): NetworkStatus = error("nobody knows")
                }
            val engine = open(hosts = Hosts(log = sink, connectivity = broken))
            engine.order()
            assertEquals(1uL, engine.flush(transport).answered)
            until("the warning arrives") { lines.any { "nobody knows" in it.message } }
        }

    @Test
    fun `nothing leaks`() =
        scenario {
            val engine = open()
            val before = liveObjects()
            engine.publish("news", TEA)
            repeat(10_000) {
                CancelHandle().use { it.cancel() }
                ExitOffer(Platform.ANDROID).use { it.on(ExitInputOf.Tick) }
                engine.subscribe("news", StartAt.Earliest).first()
            }
            repeat(200) { Engine.open("$path-$it").close() }
            assertEquals(before, liveObjects())
        }

    private companion object {
        val TEA = """{"item":"tea"}""".encodeToByteArray()
        val PLACEMENTS =
            """
            {"features": {
                "main_paywall": {"defaultValue": {"offering": "annual"}, "rules": [{
                    "key": "depth", "hashVersion": 2, "weights": [0.0, 1.0], "condition": {"country": {"${'$'}ne": "FR"}},
                    "variations": [{"offering": "annual"}, {
                        "offering": "annual_half", "discount_pct": 50, "copy": {"title": "Go pro"},
                        "exit_offer": {"enabled": true, "placement": "exit_offer"}
                    }],
                    "meta": [{"key": "control"}, {"key": "half"}]
                }]},
                "upgrade_nudge": {"defaultValue": null}
            }}
            """.trimIndent()
    }
}
