package dev.selvedge.android

import android.content.Context
import android.net.ConnectivityManager
import android.net.NetworkCapabilities
import dev.selvedge.Connectivity
import dev.selvedge.NetworkStatus

/**
 * The network as `ConnectivityManager` knows it. The app needs the permission `ACCESS_NETWORK_STATE`, which the AAR's manifest
 * asks for.
 *
 * @param context any context
 */
public class AndroidConnectivity(context: Context) : Connectivity {
    private val manager = context.applicationContext.getSystemService(Context.CONNECTIVITY_SERVICE) as ConnectivityManager

    override fun status(): NetworkStatus {
        val able = manager.getNetworkCapabilities(manager.activeNetwork) ?: return NetworkStatus.OFFLINE
        return when {
            !able.hasCapability(NetworkCapabilities.NET_CAPABILITY_INTERNET) -> NetworkStatus.OFFLINE
            able.hasCapability(NetworkCapabilities.NET_CAPABILITY_NOT_METERED) -> NetworkStatus.UNMETERED
            else -> NetworkStatus.METERED
        }
    }
}
