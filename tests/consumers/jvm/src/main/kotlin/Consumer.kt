import dev.selvedge.Engine
import kotlinx.coroutines.runBlocking
import java.nio.file.Files

fun main() =
    runBlocking {
        val folder = Files.createTempDirectory("consumer").toFile()
        Engine.open(folder.resolve("app.db").path).use { engine ->
            val order = engine.submit("orders.create", """{"item":"tea"}""")
            check(
                engine
                    .intents()
                    .items
                    .single()
                    .id == order.id,
            )
            println("submitted ${order.key}")
        }
        check(folder.deleteRecursively())
    }
