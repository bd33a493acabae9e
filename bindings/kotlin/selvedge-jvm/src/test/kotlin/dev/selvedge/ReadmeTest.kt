package dev.selvedge

import kotlinx.coroutines.runBlocking
import java.io.File
import java.nio.file.Files
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals

class ReadmeTest {
    @Test
    fun `the example of the README is the compiled one and keeps its order`() =
        runBlocking {
            val folder = Files.createTempDirectory("selvedge").toFile()
            buy(folder)
            Engine.open(folder.resolve("shop.db").path).use { assertEquals(1, it.intents().items.size) }
            folder.deleteRecursively()

            val readme = File("../../../README.md").readText()
            val here = File("src/test/kotlin/dev/selvedge/ReadmeTest.kt").readText()
            assertContains(here, readme.substringAfter("```kotlin\n").substringBefore("```"))
        }
}

suspend fun buy(folder: File) {
    Engine.open(folder.resolve("shop.db").path).use { engine ->
        val submitted = engine.submit("orders.create", """{"item":"tea","cents":500}""")
        println("will be sent once, as ${submitted.key}")
    }
}
