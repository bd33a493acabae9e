package dev.selvedge

import org.jetbrains.kotlin.abi.tools.AbiFilters
import org.jetbrains.kotlin.abi.tools.AbiTools
import java.io.File
import kotlin.test.Test
import kotlin.test.assertEquals

/**
 * What apps link against is written down in `api/`: a change of it shows in a review, and breaks nobody by accident.
 *
 * `mvn test -pl api -am -Dapi.update` writes the files anew.
 */
class ApiTest {
    @Test
    fun `selvedge-jvm exports what is written down`() = check("selvedge-jvm")

    @Test
    fun `selvedge-android exports what is written down`() = check("selvedge-android")

    @Test
    fun `selvedge-okhttp exports what is written down`() = check("selvedge-okhttp")

    @Test
    fun `selvedge-ktor exports what is written down`() = check("selvedge-ktor")

    private fun check(module: String) {
        val classes = File("../$module/target/classes").walk().filter { it.extension == "class" }.toList()
        // The generator's own machinery is public only because its code is in one file with what apps use.
        val machinery = setOf("Ffi**", "Uniffi**", "RustBuffer**").map { "dev.selvedge.ffi.$it" }.toSet()
        val filters = AbiFilters(emptySet(), machinery, emptySet(), emptySet())
        val found = StringBuilder().also { AbiTools.getInstance().printJvmDump(it, classes, filters) }.toString()
        val file = File("$module.api")
        if (System.getProperty("api.update") != null) file.writeText(found)
        assertEquals(file.readText(), found, "the API of $module changed; if that is meant: -Dapi.update, and commit $file")
    }
}
