import dev.selvedge.Engine
import dev.selvedge.android.open
import kotlinx.coroutines.runBlocking
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.annotation.Config
import kotlin.test.Test
import kotlin.test.assertEquals

@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35], manifest = Config.NONE)
class ConsumerTest {
    @Test
    fun `an order is written down`() =
        runBlocking {
            Engine.open(RuntimeEnvironment.getApplication()).use { engine ->
                val order = engine.submit("orders.create", """{"item":"tea"}""")
                assertEquals(
                    order.id,
                    engine
                        .intents()
                        .items
                        .single()
                        .id,
                )
            }
        }
}
