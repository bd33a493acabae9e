"""The scenarios of ../../scenarios.md in Python: the third host, which needs no compiler.

`cargo xtask test --only python` generates the module `selvedge_ffi` beside the built library and runs this file. The path of
a GGUF model comes in SELVEDGE_MODEL; without it the tests of models are skipped.
"""

import asyncio
import http.client
import http.server
import json
import os
import tempfile
import threading
import time
import unittest
import uuid

import selvedge_ffi as sv

MODEL = os.environ.get("SELVEDGE_MODEL")
TICK = 0.01
SOON = 20.0


class Server:
    """A real HTTP server on loopback that answers what a test tells it to and keeps what it was asked."""

    def __init__(self):
        self.status, self.body, self.seen = 201, b'{"ok":true}', []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.seen.append((dict(self.headers.items()), body))
                self.send_response(outer.status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(outer.body)))
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()

    def keys(self):
        return [headers["idempotency-key"] for headers, _ in self.seen]


class Transport(sv.HttpTransport):
    """Sends over http.client, and fails the first `fail` times in the way of `error`."""

    def __init__(self, server, fail=0, error=None, before=None):
        self.server, self.fail, self.error, self.before = server, fail, error, before

    async def send(self, request):
        if self.before is not None:
            await self.before()
        if self.fail > 0:
            self.fail -= 1
            raise self.error
        return await asyncio.to_thread(self.exchange, request)

    def exchange(self, request):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        headers = {header.name: header.value for header in request.headers}
        connection.request(request.method, request.path, body=request.body, headers=headers)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        headers = [sv.Header(name=name, value=value) for name, value in response.getheaders()]
        return sv.HttpResponse(status=response.status, headers=headers, body=body)


def failure(kind, message="refused by the test"):
    return sv.EngineError.Failed(failure=sv.Failure(kind=kind, operation="test", message=message))


PLACEMENTS = json.dumps({"features": {
    "main_paywall": {"defaultValue": {"offering": "annual"}, "rules": [{
        "key": "depth", "hashVersion": 2, "weights": [0.0, 1.0], "condition": {"country": {"$ne": "FR"}},
        "variations": [{"offering": "annual"}, {
            "offering": "annual_half", "discount_pct": 50, "copy": {"title": "Go pro"},
            "exit_offer": {"enabled": True, "placement": "exit_offer"},
        }],
        "meta": [{"key": "control"}, {"key": "half"}],
    }]},
    "upgrade_nudge": {"defaultValue": None},
}})


class Configs(sv.HttpTransport):
    """A server of configurations that knows what its client has already."""

    def __init__(self):
        self.body, self.tag, self.tags = b'{"features":{"main_paywall":{"defaultValue":{"offering":"from_the_server"}}}}', '"1"', []

    async def send(self, request):
        known = {header.name: header.value for header in request.headers}.get("if-none-match")
        self.tags.append(known)
        status, body = (304, b"") if known == self.tag else (200, self.body)
        return sv.HttpResponse(status=status, headers=[sv.Header(name="ETag", value=self.tag)], body=body)


def purchase(currency="EUR", discount_pct=50, revenue=1499):
    return sv.PaywallEvent.PURCHASE_COMPLETED(
        product_id="pro.annual", revenue=revenue, currency=currency, is_trial=False, discount_pct=discount_pct,
        is_refund=False, placement_id="main_paywall", transaction_id=None,
    )


def intent(**more):
    return sv.NewIntent(operation="orders.create", payload=b'{"item":"tea"}', **more)


async def until(what, holds):
    end = time.monotonic() + SOON
    while time.monotonic() < end:
        outcome = holds()
        if asyncio.iscoroutine(outcome):
            outcome = await outcome
        if outcome:
            return
        await asyncio.sleep(TICK)
    raise AssertionError(f"it never came about that {what}")


class Scenarios(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        # Callbacks come from threads of the engine: they have to know which loop is meant.
        loop = asyncio.get_running_loop()
        sv.uniffi_set_event_loop(loop)
        # In debug mode asyncio refuses the way in which the generated code drops a cancelled callback.
        loop.set_debug(False)
        self.folder = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.folder.name, "app.db")
        self.engines = []
        self.server = Server()

    async def asyncTearDown(self):
        for engine in self.engines:
            engine.shutdown()
        self.server.close()
        self.folder.cleanup()

    async def open(self, hosts=None, **config):
        config = sv.EngineConfig(database=config.pop("database", self.path), **config)
        engine = await sv.Engine.open(config, hosts or sv.Hosts())
        self.engines.append(engine)
        return engine

    async def submit(self, engine, **more):
        return await engine.submit(intent(**more), sv.Call(), None)

    async def flush(self, engine, transport):
        return await engine.flush(transport, sv.Call(), None)

    async def fails(self, kind, work):
        with self.assertRaises(sv.EngineError.Failed) as caught:
            await work
        found = caught.exception.failure
        self.assertEqual(found.kind, kind, found.message)
        return found

    async def test_a_new_database_is_found_well(self):
        report = await (await self.open()).doctor()
        self.assertEqual(report.health, sv.Health.OK, report.findings)
        self.assertIn("app.db", report.findings[0].found)

    async def test_an_intent_survives_reopening(self):
        engine = await self.open()
        submitted = await self.submit(engine, business_key="cart-17")
        self.assertTrue(submitted.key.startswith("orders.create:cart-17:"))
        engine.shutdown()
        again = await self.open()
        page = await again.intents(sv.IntentFilter())
        self.assertEqual([view.id for view in page.items], [submitted.id])
        self.assertEqual(page.items[0].state, sv.IntentState.PENDING)
        self.assertEqual((await again.intent(submitted.id)).payload, b'{"item":"tea"}')
        self.assertIsNone(await again.intent(str(uuid.uuid4())))

    async def test_an_intent_with_a_known_id_is_a_duplicate(self):
        engine, known = await self.open(), str(uuid.uuid4())
        self.assertFalse((await self.submit(engine, id=known)).duplicate)
        self.assertTrue((await self.submit(engine, id=known)).duplicate)
        other = sv.NewIntent(operation="orders.create", payload=b'{"item":"gold"}', id=known)
        await self.fails(sv.ErrorKind.CONFLICT, engine.submit(other, sv.Call(), None))

    async def test_a_flush_sends_the_key_and_keeps_the_answer(self):
        engine = await self.open()
        trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        submitted = await engine.submit(intent(), sv.Call(traceparent=trace), None)
        flushed = await self.flush(engine, Transport(self.server))
        self.assertEqual((flushed.attempts, flushed.answered, flushed.failed), (1, 1, 0))
        headers, body = self.server.seen[0]
        self.assertEqual(headers["idempotency-key"], f'"{submitted.key}"')
        self.assertIn("4bf92f3577b34da6a3ce929d0e0e4736", headers["traceparent"])
        self.assertEqual(json.loads(body), {"operation": "orders.create", "payload": {"item": "tea"}})
        view = await engine.intent(submitted.id)
        self.assertEqual((view.state, view.answer_status), (sv.IntentState.DONE, 201))
        self.assertEqual(view.answer_body, b'{"ok":true}')

    async def test_a_refused_intent_is_kept_as_refused(self):
        engine = await self.open()
        submitted = await self.submit(engine)
        self.server.status = 422
        await self.flush(engine, Transport(self.server))
        view = await engine.intent(submitted.id)
        self.assertEqual((view.state, view.answer_status), (sv.IntentState.REFUSED, 422))

    async def test_a_failed_request_is_repeated_with_the_same_key(self):
        engine = await self.open()
        submitted = await self.submit(engine)
        self.server.status = 503
        transport = Transport(self.server)
        self.assertEqual((await self.flush(engine, transport)).failed, 1)
        self.server.status = 201
        self.assertEqual((await self.flush(engine, transport)).answered, 1)
        self.assertEqual(self.server.keys(), [f'"{submitted.key}"'] * 2)
        self.assertEqual((await engine.intent(submitted.id)).state, sv.IntentState.DONE)

    async def test_a_relay_sends_intents_as_they_come(self):
        engine, cancel = await self.open(), sv.CancelHandle()
        relay = asyncio.create_task(engine.relay(Transport(self.server), sv.Call(), cancel))
        for _ in range(3):
            await self.submit(engine)
        await until("all are sent", lambda: len(self.server.seen) == 3)
        cancel.cancel()
        await asyncio.wait_for(relay, SOON)

    async def test_offline_is_an_error_and_costs_no_attempt(self):
        class Offline(sv.Connectivity):
            def status(self):
                return sv.NetworkStatus.OFFLINE

        engine = await self.open(sv.Hosts(connectivity=Offline()))
        submitted = await self.submit(engine)
        found = await self.fails(sv.ErrorKind.UNAVAILABLE, self.flush(engine, Transport(self.server)))
        self.assertIn("offline", found.message)
        self.assertEqual((self.server.seen, (await engine.intent(submitted.id)).attempts), ([], 0))

    async def test_a_callback_that_throws_is_a_failed_attempt(self):
        engine = await self.open()
        submitted = await self.submit(engine)
        thrown = Transport(self.server, fail=1, error=ZeroDivisionError("undeclared"))
        self.assertEqual((await self.flush(engine, thrown)).failed, 1)
        self.assertIn("undeclared", (await engine.intent(submitted.id)).last_error)
        declared = Transport(self.server, fail=1, error=failure(sv.ErrorKind.UNAVAILABLE))
        self.assertEqual((await self.flush(engine, declared)).failed, 1)
        self.assertIn("refused by the test", (await engine.intent(submitted.id)).last_error)
        self.assertEqual((await self.flush(engine, Transport(self.server))).answered, 1)

    async def test_a_callback_that_hangs_ends_by_its_timeout(self):
        engine = await self.open(callback_timeout_ms=100)
        submitted = await self.submit(engine)

        async def hang():
            await asyncio.sleep(3600)

        self.assertEqual((await self.flush(engine, Transport(self.server, before=hang))).failed, 1)
        self.assertIn("in time", (await engine.intent(submitted.id)).last_error)
        self.assertEqual((await self.flush(engine, Transport(self.server))).answered, 1)

    async def test_a_callback_may_call_the_engine(self):
        engine = await self.open()
        await self.submit(engine)
        pages = []

        async def look():
            pages.append(await engine.intents(sv.IntentFilter()))

        self.assertEqual((await self.flush(engine, Transport(self.server, before=look))).answered, 1)
        self.assertEqual([len(page.items) for page in pages], [1])

    async def test_messages_arrive_in_order(self):
        engine = await self.open()
        stream = engine.subscribe("news", sv.Start.EARLIEST(), None)
        for number in range(100):
            await engine.publish("news", str(number).encode(), sv.Call(), None)
        read = []
        while len(read) < 100:
            read += await asyncio.wait_for(stream.next_batch(32), SOON)
        self.assertEqual([int(notice.payload) for notice in read], list(range(100)))
        rest = engine.subscribe("news", sv.Start.AFTER(cursor=read[97].cursor), None)
        self.assertEqual([notice.payload for notice in await rest.next_batch(32)], [b"98", b"99"])

    async def test_a_large_message_arrives_whole(self):
        engine, payload = await self.open(), os.urandom(1_000_000)
        bulk = sv.Bulk(payload)
        await engine.publish_bulk("news", bulk, sv.Call(), None)
        await engine.publish("news", payload, sv.Call(), None)
        read = []
        stream = engine.subscribe("news", sv.Start.EARLIEST(), None)
        while len(read) < 2:
            read += await asyncio.wait_for(stream.next_batch(32), SOON)
        self.assertEqual([notice.payload == payload for notice in read], [True, True])
        too_large = sv.Bulk(bytes(100_000_000))
        await self.fails(sv.ErrorKind.TOO_LARGE, engine.publish_bulk("news", too_large, sv.Call(), None))

    async def test_a_cancelled_subscription_ends(self):
        stream = (await self.open()).subscribe("news", sv.Start.NOW(), None)
        waiting = asyncio.create_task(stream.next_batch(1))
        await asyncio.sleep(TICK)
        stream.cancel()
        await self.fails(sv.ErrorKind.CANCELLED, waiting)
        await self.fails(sv.ErrorKind.CANCELLED, stream.next_batch(1))

    async def test_jobs_are_worked_on_and_retried(self):
        seen = []

        class Handler(sv.JobHandler):
            async def handle(self, job):
                seen.append((job.payload, job.attempt))
                if job.payload == b"bad":
                    raise failure(sv.ErrorKind.INVALID_INPUT)
                if job.payload == b"later" and job.attempt == 1:
                    raise RuntimeError("the first attempt fails")
                return sv.JobOutcome.DONE()

        engine, cancel = await self.open(), sv.CancelHandle()
        jobs = [sv.NewJob(queue="mail", payload=payload) for payload in (b"good", b"bad", b"later")]
        self.assertEqual(len(await engine.enqueue(jobs, sv.Call(), None)), 3)
        options = sv.WorkOptions(queues=["mail"], concurrency=2)
        work = asyncio.create_task(engine.work(Handler(), options, cancel))

        async def settled():
            queues = await engine.queues()
            return len(queues) == 1 and (queues[0].ready, queues[0].running, queues[0].scheduled) == (0, 0, 0)

        await until("every job has ended", settled)
        cancel.cancel()
        await asyncio.wait_for(work, SOON)
        self.assertEqual(sorted(seen), [(b"bad", 1), (b"good", 1), (b"later", 1), (b"later", 2)])
        dead = await engine.jobs(sv.JobFilter(state=sv.JobState.DEAD))
        self.assertEqual([job.payload for job in dead.items], [b"bad"])

    async def test_a_job_is_cancelled_and_revived(self):
        engine = await self.open()
        [job] = await engine.enqueue([sv.NewJob(queue="mail", payload=b"", unique="one")], sv.Call(), None)
        [twin] = await engine.enqueue([sv.NewJob(queue="mail", payload=b"", unique="one")], sv.Call(), None)
        self.assertEqual((twin.id, twin.duplicate), (job.id, True))

        async def states():
            return [job.state for job in (await engine.jobs(sv.JobFilter(queue="mail"))).items]

        await engine.cancel_job(job.id)
        self.assertEqual(await states(), [sv.JobState.CANCELLED])
        await engine.revive_job(job.id)
        self.assertEqual(await states(), [sv.JobState.READY])

    async def open_model(self):
        return await self.open(models=[sv.ModelConfig(path=MODEL, name="smol", context_tokens=2048, threads=1)])

    def ask(self, text, **more):
        return sv.ChatRequest(messages=[sv.ChatMessage(role="user", content=text)], **more)

    @unittest.skipUnless(MODEL, "SELVEDGE_MODEL names no model")
    async def test_a_chat_streams_in_batches(self):
        engine = await self.open_model()
        self.assertEqual([model.name for model in engine.models()], ["smol"])
        request = self.ask("Name three teas.", max_tokens=64, batch_wait_ms=60_000)
        texts = []
        for _ in range(2):
            stream, parts = engine.chat(request, sv.Call(), None), []
            while (part := await stream.next_batch()) is not None:
                parts.append(part)
            texts.append("".join(part.text for part in parts))
            tokens = sum(len(part.tokens) for part in parts)
            self.assertIsNotNone(parts[-1].stop)
            self.assertGreater(parts[-1].prompt_tokens, 0)
            # 1, 2, 4, 8, 16, 32, 32 …: few calls however long the answer is.
            self.assertLessEqual(len(parts), 6 + tokens // 32)
        self.assertTrue(texts[0])
        self.assertEqual(texts[0], texts[1])

    @unittest.skipUnless(MODEL, "SELVEDGE_MODEL names no model")
    async def test_a_thousand_tokens_cross_in_forty_calls(self):
        engine = await self.open_model()
        request = self.ask("Write a very long story about tea, in twenty chapters.", max_tokens=1000, batch_wait_ms=60_000)
        stream, calls, tokens = engine.chat(request, sv.Call(), None), 1, 0
        while (part := await stream.next_batch()) is not None:
            calls, tokens = calls + 1, tokens + len(part.tokens)
        self.assertEqual(tokens, 1000)
        self.assertLessEqual(calls, 40)

    @unittest.skipUnless(MODEL, "SELVEDGE_MODEL names no model")
    async def test_a_cancelled_chat_stops(self):
        engine = await self.open_model()
        cancel = sv.CancelHandle()
        stream = engine.chat(self.ask("Write a long story.", max_tokens=1500), sv.Call(), cancel)
        self.assertIsNotNone(await stream.next_batch())
        cancel.cancel()

        async def read():
            while await stream.next_batch() is not None:
                pass

        await self.fails(sv.ErrorKind.CANCELLED, read())
        # The place is free again: the next answer does not wait for 1,500 tokens.
        answer = engine.chat(self.ask("Hi", max_tokens=1), sv.Call(timeout_ms=60_000), None)
        self.assertIsNotNone(await answer.next_batch())

    @unittest.skipUnless(MODEL, "SELVEDGE_MODEL names no model")
    async def test_a_short_chat_does_not_wait_for_a_long_one(self):
        engine = await self.open_model()
        patient = engine.chat(self.ask("Write a long story.", max_tokens=1500), sv.Call(_class=sv.Class.P2), None)
        self.assertIsNotNone(await patient.next_batch())
        urgent, last = engine.chat(self.ask("Hi", max_tokens=4), sv.Call(timeout_ms=60_000), None), None
        while (part := await urgent.next_batch()) is not None:
            last = part
        self.assertIsNotNone(last.stop)
        # The story is not over: it stood back.
        self.assertIsNone((await patient.next_batch()).stop)
        patient.cancel()

    @unittest.skipUnless(MODEL, "SELVEDGE_MODEL names no model")
    async def test_an_answer_is_held_to_a_schema(self):
        engine = await self.open_model()
        schema = '{"enum": ["green", "black"]}'
        stream, text = engine.chat(self.ask("Which tea?", max_tokens=16, json_schema=schema), sv.Call(), None), ""
        while (part := await stream.next_batch()) is not None:
            text += part.text
        self.assertIn(json.loads(text), ["green", "black"])
        broken = engine.chat(self.ask("Which tea?", json_schema="{"), sv.Call(), None)
        await self.fails(sv.ErrorKind.INVALID_INPUT, broken.next_batch())

    @unittest.skipUnless(MODEL, "SELVEDGE_MODEL names no model")
    async def test_texts_become_vectors(self):
        vectors = await (await self.open_model()).embed(["green tea", "a train"], None, sv.Call(), None)
        self.assertEqual(len(vectors), 2)
        for vector in vectors:
            self.assertAlmostEqual(sum(x * x for x in vector), 1.0, places=3)

    async def test_without_a_model_a_chat_is_unsupported(self):
        engine = await self.open()
        await self.fails(sv.ErrorKind.UNSUPPORTED, engine.chat(self.ask("Hi"), sv.Call(), None).next_batch())

    async def shop(self, **config):
        return await self.open(experiments=sv.ExperimentsConfig(bundled_json=PLACEMENTS, **config))

    async def assign(self, engine, placement, **more):
        return await engine.assign(sv.AssignRequest(subject="ada", placement=placement, **more), sv.Call(), None)

    async def test_a_placement_is_shown_and_stays(self):
        engine = await self.shop()
        seen = await self.assign(engine, "main_paywall", device="phone", attributes_json='{"country":"DE"}')
        self.assertEqual((seen.experiment, seen.variation, seen.enrolled), ("depth", "half", True))
        self.assertEqual((seen.shown.offering, seen.shown.discount_pct), ("annual_half", 50))
        self.assertEqual(seen.shown.copy, {"title": "Go pro"})
        self.assertTrue(seen.shown.exit_offer.enabled)
        engine.shutdown()
        again = await self.shop()
        self.assertEqual(await self.assign(again, "main_paywall", device="phone"), seen)
        elsewhere = sv.AssignRequest(subject="bob", placement="main_paywall", attributes_json='{"country":"FR"}')
        elsewhere = await again.assign(elsewhere, sv.Call(), None)
        self.assertEqual((elsewhere.experiment, elsewhere.shown.offering), (None, "annual"))

    async def test_a_peek_enrols_nobody(self):
        engine = await self.shop()
        seen = await self.assign(engine, "main_paywall", peek=True)
        self.assertEqual((seen.variation, seen.enrolled), ("half", False))
        self.assertEqual((await engine.intents(sv.IntentFilter())).items, [])

    async def test_a_placement_that_is_not_configured_is_not_found(self):
        engine = await self.shop()
        self.assertIsNone((await self.assign(engine, "upgrade_nudge")).shown)
        await self.fails(sv.ErrorKind.NOT_FOUND, self.assign(engine, "elsewhere"))
        await self.fails(sv.ErrorKind.INVALID_INPUT, self.assign(engine, "main_paywall", attributes_json="[]"))
        bare = await self.open(database=os.path.join(self.folder.name, "bare.db"))
        await self.fails(sv.ErrorKind.UNSUPPORTED, self.assign(bare, "main_paywall"))

    async def test_events_go_to_the_server_once(self):
        engine = await self.shop()
        await self.assign(engine, "main_paywall")
        await self.assign(engine, "main_paywall")
        bought = sv.NewEvent(subject="ada", event=purchase(), id=str(uuid.uuid4()))
        for _ in range(2):
            await engine.track(bought, sv.Call(), None)
        flushed = await self.flush(engine, Transport(self.server))
        self.assertEqual((flushed.answered, flushed.failed), (2, 0))
        sent = [json.loads(body) for _, body in self.server.seen]
        self.assertEqual({one["operation"] for one in sent}, {"events.track"})
        self.assertEqual([one["payload"]["name"] for one in sent], ["paywall_impression", "purchase_completed"])
        self.assertEqual(sent[1]["payload"]["id"], bought.id)
        self.assertEqual(sent[1]["payload"]["properties"]["revenue"], 1499)

    async def test_an_event_that_is_wrong_is_refused(self):
        engine = await self.shop()
        for wrong in [purchase(currency="euro"), purchase(discount_pct=101), purchase(revenue=-1)]:
            event = sv.NewEvent(subject="ada", event=wrong)
            await self.fails(sv.ErrorKind.INVALID_INPUT, engine.track(event, sv.Call(), None))
        nobody = sv.NewEvent(subject="", event=purchase())
        await self.fails(sv.ErrorKind.INVALID_INPUT, engine.track(nobody, sv.Call(), None))
        self.assertEqual((await engine.intents(sv.IntentFilter())).items, [])

    async def test_a_configuration_is_fetched_and_kept(self):
        cache = os.path.join(self.folder.name, "placements.json")
        engine, server = await self.shop(cache=cache), Configs()
        self.assertEqual(engine.config_health().source, sv.ConfigOrigin.BUNDLED)
        self.assertTrue(await engine.refresh_config(server, "/v1/config", sv.Call(), None))
        self.assertFalse(await engine.refresh_config(server, "/v1/config", sv.Call(), None))
        self.assertEqual(server.tags, [None, '"1"'])
        self.assertEqual((await self.assign(engine, "main_paywall")).shown.offering, "from_the_server")
        server.body = b'{"features": {"main_pay'
        server.tag = '"2"'
        await self.fails(
            sv.ErrorKind.DAMAGED, engine.refresh_config(server, "/v1/config", sv.Call(), None)
        )
        health = engine.config_health()
        self.assertEqual((health.source, health.features, health.stale), (sv.ConfigOrigin.SERVER, 1, False))
        self.assertIsNotNone(health.last_error)
        engine.shutdown()
        again = await self.shop(cache=cache)
        self.assertEqual(again.config_health().source, sv.ConfigOrigin.CACHE)
        self.assertEqual((await self.assign(again, "main_paywall")).shown.offering, "from_the_server")

    async def test_an_exit_offer_is_made_once(self):
        shown = (await self.assign(await self.shop(), "main_paywall")).shown
        exit = sv.ExitOffer(sv.Platform.ANDROID)
        exit.configure(shown.exit_offer)
        paywall = sv.ExitInput.PAYWALL_SHOWN("main_paywall", shown.offering, "depth", "half")
        load, check = exit.on(paywall, 0)
        self.assertTrue(load.is_LOAD_OFFER() and check.is_CHECK_ELIGIBILITY())
        self.assertEqual(exit.declined(sv.Trigger.BACK, 1), sv.Declined.NOT_LOADED)
        exit.on(sv.ExitInput.OFFER_LOADED(load.revision, "exit_annual"), 1)
        exit.on(sv.ExitInput.ELIGIBILITY_KNOWN(load.revision, sv.Eligibility.ELIGIBLE), 2)
        exit = sv.ExitOffer.restore(exit.save())
        self.assertIsNone(exit.declined(sv.Trigger.BACK, 3))
        show, record = exit.on(sv.ExitInput.BACK(), 3)
        self.assertEqual((show.placement, show.offering, show.trigger), ("exit_offer", "exit_annual", sv.Trigger.BACK))
        self.assertEqual((record.event.variant, record.event.trigger_type), ("half", sv.Trigger.BACK))
        (gone,) = exit.on(sv.ExitInput.BACK(), 4)
        self.assertEqual(gone.reason, sv.Declined.OFFER_SHOWN)
        with self.assertRaises(sv.EngineError.Failed):
            sv.ExitOffer.restore("not a state")

    async def test_a_used_cancel_handle_stops_a_call(self):
        engine, cancel = await self.open(), sv.CancelHandle()
        cancel.cancel()
        self.assertTrue(cancel.is_cancelled())
        await self.fails(sv.ErrorKind.CANCELLED, engine.submit(intent(), sv.Call(), cancel))
        self.assertEqual((await engine.intents(sv.IntentFilter())).items, [])

    async def test_a_timeout_ends_a_call(self):
        async def hang():
            await asyncio.sleep(3600)

        engine = await self.open()
        await self.submit(engine)
        slow = engine.flush(Transport(self.server, before=hang), sv.Call(timeout_ms=100), None)
        await self.fails(sv.ErrorKind.DEADLINE_EXCEEDED, slow)

    async def test_cancelling_at_any_moment_harms_nothing(self):
        engine = await self.open()
        # The job that is cancelled and revived below.
        await engine.enqueue([sv.NewJob(queue="mail", payload=b"tea")], sv.Call(), None)
        before = sv.live_objects()

        calls = [
            lambda: self.submit(engine),
            lambda: engine.intents(sv.IntentFilter()),
            lambda: engine.intent(str(uuid.uuid4())),
            lambda: engine.enqueue([sv.NewJob(queue="mail", payload=b"tea")], sv.Call(), None),
            lambda: engine.jobs(sv.JobFilter()),
            engine.queues,
            lambda: engine.cancel_job(1),
            lambda: engine.revive_job(1),
            lambda: engine.publish("news", b"tea", sv.Call(), None),
            lambda: engine.publish_bulk("large", sv.Bulk(bytes(100_000)), sv.Call(), None),
            lambda: engine.subscribe("news", sv.Start.EARLIEST(), None).begun(),
            engine.doctor,
            engine.maintain,
            engine.trim,
        ]
        stopped = ended = 0
        for step in range(40):
            for call in calls:
                running = asyncio.ensure_future(call())
                await asyncio.sleep(step * 50e-6)
                running.cancel()
                try:
                    await running
                    ended += 1
                except asyncio.CancelledError:
                    stopped += 1
        del running
        self.assertTrue(stopped > 40 and ended > 40, f"{stopped} were stopped, {ended} had ended")
        await until("nothing is left", lambda: sv.live_objects() == before)
        self.assertFalse((await self.submit(engine)).duplicate)

    async def test_a_suspended_engine_refuses_until_it_resumes(self):
        engine = await self.open()
        stream = engine.subscribe("news", sv.Start.NOW(), None)
        waiting = asyncio.create_task(stream.next_batch(1))
        await asyncio.sleep(TICK)
        await engine.suspend()
        await self.fails(sv.ErrorKind.CANCELLED, waiting)
        await self.fails(sv.ErrorKind.UNAVAILABLE, self.submit(engine))
        engine.resume()
        self.assertFalse((await self.submit(engine)).duplicate)

    async def test_trim_and_maintain_lose_nothing(self):
        engine = await self.open()
        await self.submit(engine)
        await engine.trim()
        await engine.maintain()
        self.assertEqual(len((await engine.intents(sv.IntentFilter())).items), 1)

    async def test_a_closed_engine_says_so(self):
        engine = await self.open()
        engine.shutdown()
        engine.shutdown()
        found = await self.fails(sv.ErrorKind.CLOSED, self.submit(engine))
        self.assertIn("open a new one", found.message)

    async def test_many_threads_share_an_engine(self):
        engine = await self.open(durability=sv.Durability.FAST)
        # Each thread has a loop of its own here.
        sv.uniffi_set_event_loop(None)

        def worker():
            async def work():
                for _ in range(25):
                    await engine.submit(intent(), sv.Call(), None)

            asyncio.run(work())

        await asyncio.gather(*(asyncio.to_thread(worker) for _ in range(8)))
        self.assertEqual(len((await engine.intents(sv.IntentFilter(limit=1000))).items), 200)

    async def test_a_huge_payload_is_refused(self):
        engine, huge = await self.open(), b'"' + b"x" * 100_000_000 + b'"'
        order = sv.NewIntent(operation="orders.create", payload=huge)
        await self.fails(sv.ErrorKind.TOO_LARGE, engine.submit(order, sv.Call(), None))
        job = sv.NewJob(queue="mail", payload=huge)
        await self.fails(sv.ErrorKind.TOO_LARGE, engine.enqueue([job], sv.Call(), None))
        self.assertEqual((await engine.intents(sv.IntentFilter())).items, [])

    async def test_a_payload_that_is_not_text_is_refused(self):
        engine = await self.open()
        order = sv.NewIntent(operation="orders.create", payload=b'"\xff\xfe"')
        await self.fails(sv.ErrorKind.INVALID_INPUT, engine.submit(order, sv.Call(), None))

    async def test_an_unwritable_path_is_refused(self):
        for path in ("", "a\0b", os.path.join(self.folder.name, "no", "such", "folder", "app.db")):
            with self.assertRaises(sv.EngineError.Failed) as caught:
                await self.open(database=path)
            self.assertIn(caught.exception.failure.kind, (sv.ErrorKind.INVALID_INPUT, sv.ErrorKind.PERMISSION_DENIED, sv.ErrorKind.NOT_FOUND))
            self.assertIsNotNone(caught.exception.failure.advice)

    async def test_two_engines_share_one_file(self):
        one, two = await self.open(), await self.open()
        stream = two.subscribe("news", sv.Start.NOW(), None)
        await stream.begun()
        await one.publish("news", b"hello", sv.Call(), None)
        [notice] = await asyncio.wait_for(stream.next_batch(1), SOON)
        self.assertEqual(notice.payload, b"hello")

    async def test_the_apps_clock_is_the_databases(self):
        class Later(sv.HostClock):
            def now_ms(self):
                return 4_000_000_000_000

        engine = await self.open(sv.Hosts(clock=Later()))
        submitted = await self.submit(engine)
        at = (await engine.intent(submitted.id)).submitted_at_ms
        self.assertTrue(0 <= at - 4_000_000_000_000 < 60_000, at)

    async def test_heat_shows_in_the_report(self):
        class Hot(sv.ThermalSensor):
            def read(self):
                return sv.ThermalReading(status=sv.ThermalStatus.SEVERE, headroom=1.25)

        report = await (await self.open(sv.Hosts(thermal=Hot()))).doctor()
        [heat] = [finding for finding in report.findings if finding.check == "heat"]
        self.assertEqual((heat.health, report.health), (sv.Health.WARNING, sv.Health.WARNING))
        self.assertIn("1.25", heat.found)

    async def test_log_lines_reach_the_app(self):
        lines = []

        class Sink(sv.LogSink):
            def log(self, record):
                lines.append(record)
                raise ValueError("a sink that throws disturbs nobody")

        class Broken(sv.Connectivity):
            def status(self):
                raise ValueError("nobody knows")

        engine = await self.open(sv.Hosts(log=Sink(), connectivity=Broken()))
        await self.submit(engine)
        self.assertEqual((await self.flush(engine, Transport(self.server))).answered, 1)
        await until("the warning arrives", lambda: any("nobody knows" in line.message for line in lines))
        self.assertTrue(all(line.level in (sv.LogLevel.WARN, sv.LogLevel.INFO, sv.LogLevel.ERROR) for line in lines))

    async def test_nothing_leaks(self):
        engine = await self.open()
        before = sv.live_objects()
        for _ in range(10_000):
            handle, bulk = sv.CancelHandle(), sv.Bulk(b"tea")
            handle.cancel()
            stream = engine.subscribe("news", sv.Start.NOW(), None)
            stream.cancel()
        for number in range(200):
            other = await sv.Engine.open(sv.EngineConfig(database=f"{self.path}-{number}"), sv.Hosts())
            other.shutdown()
        del handle, bulk, stream, other
        self.assertEqual(sv.live_objects(), before)


if __name__ == "__main__":
    unittest.main()
