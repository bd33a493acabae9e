//! The macro that writes a plugin trait together with its object-safe twin.

use std::{future::Future, pin::Pin};

/// A boxed future that may be sent between threads: the price of one `dyn` call is one of these.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Declares a plugin trait and its boxed twin.
///
/// Authors implement the first trait with plain `async fn`s. The twin is implemented for every such type, and the first
/// trait for `Arc<dyn Twin>`, so a wrapper calls the same methods whether it holds a concrete plugin or an erased one.
/// No method has a default body: a wrapper that forgets a new operation does not compile.
macro_rules! plugin_trait {
    (
        $(#[$doc:meta])*
        pub trait $name:ident, $twin:ident, $any:ident {
            sync { $( $(#[$sync_doc:meta])* fn $sync:ident(&self $(, $sync_arg:ident: $sync_ty:ty)?) -> $sync_ret:ty; )* }
            async { $( $(#[$async_doc:meta])* async fn $async:ident(&self, cx: &Context, $arg:ident: $ty:ty) -> $ret:ty; )* }
        }
    ) => {
        $(#[$doc])*
        pub trait $name: Send + Sync + std::fmt::Debug + 'static {
            $( $(#[$sync_doc])* fn $sync(&self $(, $sync_arg: $sync_ty)?) -> $sync_ret; )*
            $(
                $(#[$async_doc])*
                fn $async(&self, cx: &Context, $arg: $ty) -> impl Future<Output = $ret> + Send;
            )*
        }

        #[doc = concat!("The object-safe twin of [`", stringify!($name), "`]: the same methods with boxed futures. Implemented for every plugin; never by hand.")]
        pub trait $twin: Send + Sync + std::fmt::Debug + 'static {
            $( #[doc(hidden)] fn $sync(&self $(, $sync_arg: $sync_ty)?) -> $sync_ret; )*
            $(
                #[doc(hidden)]
                fn $async<'a>(&'a self, cx: &'a Context, $arg: $ty) -> $crate::BoxFuture<'a, $ret>;
            )*
        }

        impl<P: $name> $twin for P {
            $( fn $sync(&self $(, $sync_arg: $sync_ty)?) -> $sync_ret { $name::$sync(self $(, $sync_arg)?) } )*
            $(
                fn $async<'a>(&'a self, cx: &'a Context, $arg: $ty) -> $crate::BoxFuture<'a, $ret> {
                    Box::pin($name::$async(self, cx, $arg))
                }
            )*
        }

        #[doc = concat!("Any [`", stringify!($name), "`] plugin, erased, as the engine keeps it. Cloning shares the plugin.")]
        #[derive(Clone, Debug)]
        pub struct $any(std::sync::Arc<dyn $twin>);

        impl $any {
            /// Erases a plugin.
            pub fn new(plugin: impl $name) -> Self {
                Self(std::sync::Arc::new(plugin))
            }

            /// The twin itself, whose futures are boxed already: a layer need not box them again.
            pub(crate) fn twin(&self) -> &dyn $twin {
                &*self.0
            }

            /// Erases a plugin that something else keeps a hold of too.
            pub fn shared<P: $name>(plugin: std::sync::Arc<P>) -> Self {
                Self(plugin)
            }
        }

        impl $name for $any {
            $( fn $sync(&self $(, $sync_arg: $sync_ty)?) -> $sync_ret { self.0.$sync($($sync_arg)?) } )*
            $(
                async fn $async(&self, cx: &Context, $arg: $ty) -> $ret {
                    self.0.$async(cx, $arg).await
                }
            )*
        }
    };
}

pub(crate) use plugin_trait;
