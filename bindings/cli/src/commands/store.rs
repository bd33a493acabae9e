//! Which Store is meant, and opening it.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use selvedge::{AnyStore, Error, ErrorKind, Result, postgres::PostgresStore, redis::RedisStore, sqlite::SqliteStore};

use crate::config::{Quotas, Store};

/// Where a Store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A SQLite file.
    File(PathBuf),
    /// A PostgreSQL database, by its URL, which may hold a password. `Display` leaves that out.
    Server(String),
}

impl Place {
    /// The place that a configuration means.
    ///
    /// # Errors
    /// `InvalidInput` for a URL of another kind.
    pub(crate) fn of(store: &Store) -> Result<Self> {
        if store.url.is_empty() { Ok(Self::File(store.path.clone())) } else { Self::parse(&store.url) }
    }

    fn parse(text: &str) -> Result<Self> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Ok(Self::Server(text.into()));
        }
        if let Some(path) = text.strip_prefix("sqlite:") {
            return Ok(Self::File(path.into()));
        }
        match text.split_once("://") {
            // It may hold a password, so only its beginning is repeated.
            Some((scheme, _)) => {
                Err(Error::new(ErrorKind::InvalidInput, "cli.store", "there is no Store of this kind")
                    .with("scheme", scheme)
                    .advise("write postgres://user@host:5432/database, sqlite:FILE, or a file's path"))
            }
            None => Ok(Self::File(text.into())),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Server(url) => {
                let (scheme, rest) = url.split_once("://").unwrap_or(("postgres", ""));
                let rest = rest.split(['?', '#']).next().unwrap_or_default();
                // A password with an @ in the clear is a mistake that happens.
                let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
                write!(f, "{scheme}://{host}")
            }
        }
    }
}

/// Opens the Store of a configuration, and makes one where there is none. Within a tokio runtime.
///
/// # Errors
/// Those of [`Place::of`] and of the plugin.
pub(crate) async fn open(store: &Store) -> Result<AnyStore> {
    match Place::of(store)? {
        Place::File(path) => Ok(AnyStore::new(SqliteStore::open(path)?)),
        Place::Server(url) => Ok(AnyStore::new(server(store, url).open().await?)),
    }
}

/// Opens a Store that must be there: looking at one must not make one.
///
/// # Errors
/// `NotFound` when there is none, and those of [`open`].
pub(crate) async fn open_existing(store: &Store) -> Result<AnyStore> {
    match Place::of(store)? {
        Place::File(path) => {
            if !is_there(&path) {
                return Err(Error::new(ErrorKind::NotFound, "cli.open", "there is no Store")
                    .with("path", path.display())
                    .advise("name it with --store, or set store.path or store.url in the configuration"));
            }
            Ok(AnyStore::new(SqliteStore::open(path)?))
        }
        Place::Server(url) => Ok(AnyStore::new(server(store, url).existing().open().await?)),
    }
}

/// Opens the Store of the quotas, if they have one of their own. Within a tokio runtime.
///
/// # Errors
/// `InvalidInput` for a URL of another kind, and those of the plugin.
pub(crate) async fn quotas(quotas: &Quotas) -> Result<Option<AnyStore>> {
    match quotas.store.split_once("://").map(|(scheme, _)| scheme) {
        _ if quotas.store.is_empty() => Ok(None),
        Some("redis" | "rediss") => {
            let builder = RedisStore::builder(&quotas.store).timeout(quotas.timeout_seconds.get());
            Ok(Some(AnyStore::new(builder.open().await?)))
        }
        // It may hold a password, so only its beginning is repeated.
        scheme => Err(Error::new(ErrorKind::InvalidInput, "cli.store", "quotas cannot be kept there")
            .with("key", "quotas.store")
            .with("scheme", scheme.unwrap_or("none"))
            .advise("write redis://user:password@host:6379/0, or leave it empty to keep them in the Store")),
    }
}

pub(crate) fn is_there(path: &Path) -> bool {
    path.exists()
}

fn server(store: &Store, url: String) -> selvedge::postgres::Builder {
    let builder = PostgresStore::builder(url).schema(&store.schema).connections(store.connections.get());
    match (store.listen, store.listener_url.as_str()) {
        (false, _) => builder.without_listener(),
        (true, "") => builder,
        (true, listener) => builder.listener(listener),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_paths_are_told_apart() {
        let file = |path: &str| Place::File(path.into());
        for (text, place) in [
            ("shop.db", file("shop.db")),
            ("sqlite:shop.db", file("shop.db")),
            ("sqlite:/var/lib/shop.db", file("/var/lib/shop.db")),
            ("C:\\shop.db", file("C:\\shop.db")),
            ("postgres://app@db/shop", Place::Server("postgres://app@db/shop".into())),
            ("postgresql://db/shop", Place::Server("postgresql://db/shop".into())),
        ] {
            assert_eq!(Place::parse(text).expect(text), place);
        }
        let refused = Place::parse("mysql://app:secret@db/shop").expect_err("another kind");
        assert!(refused.to_string().contains("mysql") && !format!("{refused:?}").contains("secret"), "{refused:?}");
    }

    #[test]
    fn a_place_is_shown_without_its_secrets() {
        for url in [
            "postgres://app:secret@db:5433/shop",
            "postgres://app:sec@ret@db:5433/shop?password=secret",
            "postgres://db:5433/shop?user=app&password=secret",
        ] {
            assert_eq!(Place::parse(url).expect(url).to_string(), "postgres://db:5433/shop");
        }
    }
}
